"""The decoder language model: embedding, a scan over superblocks, and the final norm.

A superblock is one or more gated cross-attention blocks (if pictures are read) and the self-attention
blocks that follow them. Parameters of superblock i are slice i of `layers/...`; what does not fill a superblock
is in `tail/...`. Program size does not grow with depth.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Float, Int
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

    positions: Array
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
    """One layer of self-attention and feed-forward."""

    config: DecoderConfig
    window: int | None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], context: Any, cache: KeyValue | None) -> tuple[Any, KeyValue | None]:
        config = self.config
        out_scale = 1.0 / (2 * config.layers)
        attend = Attention(
            config.attention,
            rope_frequencies=self._frequencies(),
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
            return attend(y, y, mask=mask, positions=context.positions, cache=cache, write_index=context.write_index)

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
    """`layers` self-attention blocks, with a cross-attention block before every `cross.every`-th of them."""

    config: DecoderConfig
    cross: GatedCrossAttentionConfig | None
    layers: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], cache: dict | None, context: Any) -> tuple[Any, dict | None]:
        new = {}
        for layer in range(self.layers):
            if self.cross is not None and layer % self.cross.every == 0:
                name = f"cross_{layer}"
                block = GatedCrossAttention(self.cross, self.dtype, name=name)
                x, pair = block(x, context.media, context.media_mask, None if cache is None else cache[name])
                new[name] = pair
            name = f"self_{layer}"
            window = self.config.windows[layer % len(self.config.windows)]
            x, new[name] = DecoderBlock(self.config, window, self.dtype, name=name)(
                x, context, None if cache is None else cache[name]
            )
        return x, None if cache is None else new


class Decoder(nn.Module):
    """A decoder-only language model that may look at media through gated cross-attention."""

    config: DecoderConfig
    cross: GatedCrossAttentionConfig | None = None
    dtype: Any = jnp.float32

    @property
    def plan(self) -> DepthPlan:
        """How the depth is cut."""
        return depth_plan(self.config.layers, len(self.config.windows), self.cross.every if self.cross else None)

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"],
        *,
        media: Media | None = None,
        media_index: Int[Array, "B T"] | None = None,
        prefix: Any = None,
        cache: DecoderCache | None = None,
        write_index: Int[Array, "B T"] | None = None,
    ) -> DecoderOutput:
        """Hidden states of `tokens`; segment 0 is padding.

        `prefix [B,T]` marks keys that all of their segment may see. With a `cache`, keys and values go to
        the places `write_index [B,T]`, and the tokens attend to the whole cache.
        """
        config = self.config
        if (self.cross is None) != (media is None):
            raise ConfigError("a decoder with cross-attention needs media, and one without takes none")
        table, unembedding = self._embeddings()
        x = jnp.take(constrain(table.astype(self.dtype), "vocab", None), tokens, axis=0)
        if config.embedding_scale:
            x = x * jnp.asarray(config.width**0.5, self.dtype)
        if config.positions == "learned":
            x = x + self._learned_positions(positions)
        x = constrain(x, "batch", "length", "embed")
        mask = AttentionMask(query_segments=segment_ids, key_segments=segment_ids, prefix=prefix, causal=True)
        if cache is not None:
            rows = jnp.arange(tokens.shape[0])[:, None]
            mask = dataclasses.replace(
                mask,
                key_segments=cache.segments.at[rows, write_index].set(segment_ids),
                query_positions=positions,
                key_positions=cache.positions.at[rows, write_index].set(positions),
            )
        media_mask = None
        if media is not None:
            media_mask = AttentionMask(query_segments=media_index, key_segments=media.segments, causal=False)
        context = _Context(positions, mask, write_index, media.features if media else None, media_mask)
        x, blocks, tail = self._layers(x, context, cache)
        x = Norm(config.norm, config.norm_eps, config.norm_offset, config.norm_bias, name="final_norm")(x)
        new_cache = None if cache is None else DecoderCache(blocks, tail, mask.key_positions, mask.key_segments)
        return DecoderOutput(x, unembedding, new_cache, config.logits_softcap)

    def _embeddings(self):
        config = self.config
        init = nn.with_logical_partitioning(nn.initializers.normal(config.embedding_init), ("vocab", "embed"))
        shape = (config.vocab_size, config.width)
        table = self.param("embedding", init, shape, jnp.float32)
        return table, table if config.tied_embeddings else self.param("unembedding", init, shape, jnp.float32)

    def _learned_positions(self, positions):
        config = self.config
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), (None, "embed"))
        shape = (config.max_length + config.position_offset, config.width)
        table = self.param("position_embedding", init, shape, jnp.float32)
        return jnp.take(table.astype(self.dtype), positions + config.position_offset, axis=0)

    def _layers(self, x, context, cache):
        plan = self.plan
        block = Superblock
        if self.config.remat != "none":
            block = nn.remat(block, policy=REMAT_POLICIES[self.config.remat], prevent_cse=False)
        blocks = tail = {}
        if plan.superblocks:
            scanned = nn.scan(
                block,
                variable_axes={"params": 0, "attention": 0},
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
    plan = depth_plan(config.layers, len(config.windows), cross.every if cross else None)

    def pair(leading, places, attention):
        shape = (*leading, batch, places, attention.groups, attention.head_width)
        return KeyValue(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def block(leading, layers):
        caches = {f"self_{i}": pair(leading, length, config.attention) for i in range(layers)}
        if cross is not None:
            caches |= {
                f"cross_{i}": pair(leading, media_length, cross.attention) for i in range(0, layers, cross.every)
            }
        return caches

    blocks = block((plan.superblocks,), plan.layers_per_superblock) if plan.superblocks else {}
    tail = block((), plan.tail_layers) if plan.tail_layers else {}
    nothing = jnp.zeros((batch, length), jnp.int32)
    return DecoderCache(blocks, tail, nothing, nothing)
