"""The decoder language model: embedding, a scan over superblocks, and the final norm.

A superblock is one or more gated cross-attention blocks (if pictures are read) and the self-attention
blocks that follow them. Parameters of superblock i are slice i of `layers/...`; what does not fill a superblock
is in `tail/...`. Program size does not grow with depth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.core.errors import ConfigError
from mmjax.layers.attention import Attention, KeyValue
from mmjax.layers.linear import Norm
from mmjax.layers.mlp import MLP
from mmjax.models.decoders.config import DecoderConfig, DepthPlan, depth_plan
from mmjax.models.fusion.gated import GatedCrossAttention, GatedCrossAttentionConfig
from mmjax.ops.masks import AttentionMask
from mmjax.ops.rope import rope_frequencies
from mmjax.parallel.sharding import constrain


@flax.struct.dataclass
class Media:
    """What the text of a batch may look at: features, and which image of the row each of them belongs to.

    `features` is None when decoding from a cache that holds their keys and values.
    """

    features: Float[Array, "B S E"] | None
    segments: Int[Array, "B S"]


@flax.struct.dataclass
class Inline:
    """Features that stand in the text itself: where `index` is s > 0, the s-th of them takes the token's place."""

    features: Float[Array, "B S D"]
    index: Int[Array, "B T"]


@flax.struct.dataclass
class DecoderCache:
    """Keys and values of all layers, and what stands at each place of the cache (segment 0: nothing yet)."""

    blocks: dict[str, KeyValue]
    tail: dict[str, KeyValue]
    positions: Int[Array, "B S"]
    segments: Int[Array, "B S"]


@flax.struct.dataclass
class DecoderOutput:
    """`hidden` after the final norm; logits are `softcap(hidden @ unembedding.T)`."""

    hidden: Float[Array, "B T D"]
    unembedding: Float[Array, "V D"]
    cache: DecoderCache | None
    logits_softcap: float | None = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class _Context:
    """What every layer sees: the same for all, so it is broadcast over the scan."""

    rope_positions: Array
    mask: AttentionMask
    write_index: Array | None
    media: Array | None
    media_mask: AttentionMask | None


REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def alibi_slopes(heads: int) -> Float[np.ndarray, "H"]:
    """Slopes of ALiBi's linear biases (Press et al. 2022), as MPT and BLOOM order them for any number of heads."""
    power = 2 ** int(np.ceil(np.log2(heads)))
    slopes = 2.0 ** (-8.0 * np.arange(1, power + 1) / power)
    if power != heads:
        slopes = np.concatenate([slopes[1::2], slopes[::2]])[:heads]
    return slopes.astype(np.float32)


class DecoderBlock(nn.Module):
    """One layer of self-attention, attention to the media where the config says so, and feed-forward.

    Where it attends to media, its cache is a pair: of the text, and of the media.
    """

    config: DecoderConfig
    window: int | None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], context: Any, cache: Any) -> tuple[Any, Any]:
        config = self.config
        cache, media_cache = cache if config.encoder_attention and cache is not None else (cache, None)
        out_scale = 1.0 / (2 * config.layers)
        attend = Attention(
            config.attention,
            rope_frequencies=self._frequencies(),
            rope_sections=config.rope_sections,
            alibi_slopes=alibi_slopes(config.heads) if config.positions == "alibi" else None,
            out_init_scale=out_scale,
            dtype=self.dtype,
            name="attention",
        )
        feed_forward = MLP(
            config.mlp_width, config.activation, config.mlp_gated, config.mlp_bias, self.dtype, out_scale, name="mlp"
        )

        def norm(name):
            return Norm(config.norm, config.norm_eps, config.norm_offset, config.norm_bias, name=name)

        def attention(y):
            mask = dataclasses.replace(context.mask, window=self.window)
            places = {"positions": context.rope_positions, "write_index": context.write_index}
            return attend(y, y, mask=mask, cache=cache, **places)

        if config.parallel_residual:
            y, pair = attention(norm("attention_norm")(x))
            x = x + y + feed_forward(norm("mlp_norm")(x))
        elif config.norm_position == "post":
            y, pair = attention(x)
            x = norm("attention_norm")(x + y)
            x = norm("mlp_norm")(x + feed_forward(x))
        else:
            y, pair = attention(norm("attention_norm")(x))
            x = x + (norm("attention_post_norm")(y) if config.norm_position == "sandwich" else y)
            if config.encoder_attention:
                look = Attention(config.attention, out_init_scale=out_scale, dtype=self.dtype, name="encoder_attention")
                y = norm("encoder_attention_norm")(x)
                y, seen = look(y, context.media, mask=context.media_mask, cache=media_cache)
                x, pair = x + y, (pair, seen)
            y = feed_forward(norm("mlp_norm")(x))
            x = x + (norm("mlp_post_norm")(y) if config.norm_position == "sandwich" else y)
        return constrain(x, "batch", "length", "embed"), None if cache is None else pair

    def _frequencies(self):
        config = self.config
        if config.positions != "rotary":
            return None
        if self.window is not None and config.rope_local_base is not None:
            return rope_frequencies(config.head_width, config.rope_local_base, None, config.rope_fraction)
        return rope_frequencies(config.head_width, config.rope_base, config.rope_scaling, config.rope_fraction)


class Superblock(nn.Module):
    """`layers` self-attention blocks, with cross-attention blocks before some of them.

    Every block's output is kept in the collection "hidden" for a caller that asks for it.
    """

    config: DecoderConfig
    cross: GatedCrossAttentionConfig | None
    layers: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], cache: dict | None, context: Any) -> tuple[Any, dict | None]:
        new = {}
        for name in block_names(self.cross, self.layers):
            kept = None if cache is None else cache[name]
            if name.startswith("cross_"):
                block = GatedCrossAttention(self.cross, self.dtype, name=name)
                x, new[name] = block(x, context.media, context.media_mask, kept)
            else:
                window = self.config.windows[int(name.removeprefix("self_")) % len(self.config.windows)]
                x, new[name] = DecoderBlock(self.config, window, self.dtype, name=name)(x, context, kept)
            self.sow("hidden", f"{name}_output", x)
        return x, None if cache is None else new


class Decoder(nn.Module):
    """A decoder-only language model that may look at media through gated cross-attention."""

    config: DecoderConfig
    cross: GatedCrossAttentionConfig | None = None
    dtype: Any = jnp.float32

    @property
    def plan(self) -> DepthPlan:
        """How the depth is cut."""
        return plan_depth(self.config, self.cross)

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        *,
        media: Media | None = None,
        media_index: Int[Array, "B T"] | None = None,
        media_allowed: Bool[Array, "B T S"] | None = None,
        inline: Inline | None = None,
        token_types: Int[Array, "B T"] | None = None,
        prefix: Any = None,
        blocks: Int[Array, "B T"] | None = None,
        query_segments: Int[Array, "B T"] | None = None,
        rope_positions: Int[Array, "B T"] | Int[Array, "B T axes"] | None = None,
        cache: DecoderCache | None = None,
        write_index: Int[Array, "B T"] | None = None,
    ) -> DecoderOutput:
        """Hidden states of `tokens`; segment 0 is padding.

        Padding sees nothing, unless `query_segments` say which segment each token looks at. Which media a token looks
        at is said by `media_index`, or spelt out by `media_allowed`. `prefix [B,T]` marks keys that all of their
        segment may see, tokens of one of the `blocks [B,T]` see each other. `positions` are the order of a row; where
        `rope_positions` are given, these are what rotary embeddings turn by. With a `cache`, keys and values go to the
        places `write_index [B,T]`, and the tokens attend to the whole cache.
        """
        config = self.config
        if (self.cross is None and not config.encoder_attention) != (media is None):
            raise ConfigError("a decoder with cross-attention needs media, and one without takes none")
        table, unembedding = self._embeddings()
        x = self._embed(table, tokens, positions, token_types, inline)
        self.sow("hidden", "embeddings", x)
        mask = AttentionMask(
            query_segments=segment_ids if query_segments is None else query_segments,
            key_segments=segment_ids,
            prefix=prefix,
            query_blocks=blocks,
            key_blocks=blocks,
            causal=config.causal,
            window_cuts_blocks=config.window_cuts_blocks,
        )
        if cache is not None:
            mask = _over_cache(mask, cache, positions, segment_ids, write_index)
        media_mask = None
        if media is not None and media_allowed is not None:
            media_mask = AttentionMask(allowed=media_allowed)
        elif media is not None:
            media_mask = AttentionMask(query_segments=media_index, key_segments=media.segments, causal=False)
        turned_by = positions if rope_positions is None else rope_positions
        context = _Context(turned_by, mask, write_index, media.features if media else None, media_mask)
        x, blocks, tail = self._layers(x, context, cache)
        if config.final_norm:
            x = self._norm("final_norm")(x)
        new_cache = None if cache is None else DecoderCache(blocks, tail, mask.key_positions, mask.key_segments)
        return DecoderOutput(x, unembedding, new_cache, config.logits_softcap)

    def _norm(self, name):
        config = self.config
        return Norm(config.norm, config.norm_eps, config.norm_offset, config.norm_bias, name=name)

    def _embed(self, table, tokens, positions, token_types, inline):
        config = self.config
        x = jnp.take(constrain(table.astype(self.dtype), "vocab", None), tokens, axis=0)
        if config.embedding_scale:
            x = x * jnp.asarray(config.width**0.5, self.dtype)
        if inline is not None:
            rows = jnp.arange(tokens.shape[0])[:, None]
            there = inline.features.astype(self.dtype)[rows, jnp.maximum(inline.index - 1, 0)]
            x = jnp.where((inline.index > 0)[:, :, None], there, x)
        if config.token_types:
            kinds = self._table("token_type_embedding", config.token_types)
            chosen = jnp.zeros_like(tokens) if token_types is None else token_types
            x = x + jnp.take(kinds, chosen, axis=0)
        if config.positions == "learned":
            rows = self._table("position_embedding", config.max_length + config.position_offset)
            x = x + jnp.take(rows, positions + config.position_offset, axis=0)
        if config.embedding_norm:
            x = self._norm("embedding_norm")(x)
        return constrain(x, "batch", "length", "embed")

    def _embeddings(self):
        config = self.config
        init = nn.with_logical_partitioning(nn.initializers.normal(config.embedding_init), ("vocab", "embed"))

        def table(name, rows):
            first = self.param(name, init, (rows - config.added_vocab, config.width), jnp.float32)
            if not config.added_vocab:
                return first
            added = self.param(f"added_{name}", init, (config.added_vocab, config.width), jnp.float32)
            return jnp.concatenate([first, added], axis=0)

        embedding = table("embedding", config.vocab_size + config.extra_embeddings)
        return embedding, embedding if config.tied_embeddings else table("unembedding", config.vocab_size)

    def _table(self, name, rows):
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), (None, "embed"))
        return self.param(name, init, (rows, self.config.width), jnp.float32).astype(self.dtype)

    def _layers(self, x, context, cache):
        plan = self.plan
        block = Superblock
        if self.config.remat != "none":
            block = nn.remat(block, policy=REMAT_POLICIES[self.config.remat], prevent_cse=False)
        blocks = tail = {}
        if plan.superblocks:
            scanned = nn.scan(
                block,
                variable_axes={"params": 0, "attention": 0, "hidden": 0},
                split_rngs={"params": True},
                in_axes=(0, nn.broadcast),
                out_axes=0,
                length=plan.superblocks,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            layers = scanned(self.config, self.cross, plan.layers_per_superblock, self.dtype, name="layers")
            x, blocks = layers(x, None if cache is None else cache.blocks, context)
        if plan.tail_layers:
            last = block(self.config, self.cross, plan.tail_layers, self.dtype, name="tail")
            x, tail = last(x, None if cache is None else cache.tail, context)
        return x, blocks, tail


def plan_depth(config: DecoderConfig, cross: GatedCrossAttentionConfig | None) -> DepthPlan:
    """How the depth of a decoder is cut."""
    return depth_plan(
        config.layers, len(config.windows), cross.every if cross else None, cross is None or cross.before is None
    )


def block_names(cross: GatedCrossAttentionConfig | None, layers: int) -> list[str]:
    """The blocks of `layers` layers of a superblock or tail, in order: `cross_i` stands before `self_i`.

    Where more than one cross-attention block stands there, the second is `cross_i_2`, and so on.
    """
    slots = cross.slots(layers) if cross is not None else ()
    names = []
    for layer in range(layers + 1):
        count = slots.count(layer)
        names += [f"cross_{layer}"][:count] + [f"cross_{layer}_{number}" for number in range(2, count + 1)]
        names += [f"self_{layer}"] if layer < layers else []
    return names


def layer_outputs(
    config: DecoderConfig, cross: GatedCrossAttentionConfig | None, hidden: Mapping[str, Any]
) -> list[tuple[str, Float[Array, "B T D"]]]:
    """The embeddings and every block's output, in order, with their names, from the decoder's collection "hidden"."""
    plan, outputs = plan_depth(config, cross), [("embeddings", hidden["embeddings"][0])]
    for block in range(plan.superblocks):
        names = block_names(cross, plan.layers_per_superblock)
        outputs += [(name, hidden["layers"][f"{name}_output"][0][block]) for name in names]
    if plan.tail_layers:
        names = block_names(cross, plan.tail_layers)
        outputs += [(name, hidden["tail"][f"{name}_output"][0]) for name in names]
    return outputs


def _over_cache(mask, cache, positions, segment_ids, write_index):
    """The mask of tokens that attend to all that the cache holds once they are written into it."""
    rows = jnp.arange(positions.shape[0])[:, None]

    def in_cache(rule):
        nothing = None if rule is None else jnp.zeros(cache.segments.shape, rule.dtype)
        return None if rule is None else nothing.at[rows, write_index].set(rule)

    return dataclasses.replace(
        mask,
        key_segments=cache.segments.at[rows, write_index].set(segment_ids),
        query_positions=positions,
        key_positions=cache.positions.at[rows, write_index].set(positions),
        prefix=in_cache(mask.prefix),
        key_blocks=in_cache(mask.key_blocks),
    )


def empty_cache(
    config: DecoderConfig,
    cross: GatedCrossAttentionConfig | None,
    *,
    batch: int,
    length: int,
    media_length: int = 0,
    dtype: Any = jnp.float32,
) -> DecoderCache:
    """A cache of `length` places for text, and of `media_length` for media, in which nothing stands yet."""
    plan = plan_depth(config, cross)

    def pair(leading, places, attention):
        shape = (*leading, batch, places, attention.groups, attention.head_width)
        return KeyValue(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def of_block(leading, name):
        if name.startswith("cross_"):
            return pair(leading, media_length, cross.attention)
        own = pair(leading, length, config.attention)
        return (own, pair(leading, media_length, config.attention)) if config.encoder_attention else own

    def block(leading, layers):
        return {name: of_block(leading, name) for name in block_names(cross, layers)}

    blocks = block((plan.superblocks,), plan.layers_per_superblock) if plan.superblocks else {}
    tail = block((), plan.tail_layers) if plan.tail_layers else {}
    nothing = jnp.zeros((batch, length), jnp.int32)
    return DecoderCache(blocks, tail, nothing, nothing)
