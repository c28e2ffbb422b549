"""The decoder language model: embedding, a scan over superblocks, and the final norm.

A superblock is one or more gated cross-attention blocks (if pictures are read) and the self-attention
blocks that follow them. Parameters of superblock i are slice i of `layers/...`; what does not fill a superblock
is in `tail/...`. Program size does not grow with depth.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.core.errors import ConfigError
from mmjax.layers.attention import Attention
from mmjax.layers.cache import KeyValue, Meeting
from mmjax.layers.embedding import lookup
from mmjax.layers.linear import Norm, by_outputs
from mmjax.layers.mlp import MLP
from mmjax.layers.parameters import parameter
from mmjax.layers.remat import remat
from mmjax.models.decoders.cache import (
    FULL,
    DecoderCache,
    SharedPrefix,
    kind_of,
    meet,
    places_by_kind,
    see_shared,
)
from mmjax.models.decoders.config import DecoderConfig, DepthPlan, depth_plan
from mmjax.models.fusion.gated import GatedCrossAttention, GatedCrossAttentionConfig
from mmjax.ops.masks import AttentionMask
from mmjax.ops.rope import rope_frequencies
from mmjax.parallel.sharding import constrain, starting


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
class DecoderOutput:
    """`hidden` after the final norm."""

    hidden: Float[Array, "B T D"]
    unembedding: Float[Array, "V D"]
    cache: DecoderCache | None
    logits_softcap: float | None = flax.struct.field(pytree_node=False)

    def logits(self) -> Float[Array, "B T V"]:
        """float32: `hidden` times the transposed unembedding, in the dtype of `hidden`, then the soft-cap."""
        kernel = self.unembedding.astype(self.hidden.dtype)
        scores = by_outputs(self.hidden, kernel, jnp.float32)
        cap = self.logits_softcap
        return scores if cap is None else cap * jnp.tanh(scores / cap)


@flax.struct.dataclass
class _Context:
    """What every layer sees: the same for all, so it is broadcast over the scan.

    Meetings are by kind of layer, and so, of the prefix's own kinds, are the masks over a shared prefix.
    """

    rope_positions: Array
    meetings: dict[str, Meeting]
    shared_masks: dict[str, AttentionMask]
    media: Array | None
    media_mask: AttentionMask | None
    shared_media_mask: AttentionMask | None


@flax.struct.dataclass
class _Kept:
    """What a superblock reads and does not write, by the name of the block: keys and values of media that were looked
    at before, and of a shared prefix and its media. `layer`: its number in the stack that its text's cache is in."""

    layer: Int[Array, ""] | None = None
    media: dict[str, KeyValue] = flax.struct.field(default_factory=dict)
    shared_text: dict[str, KeyValue] = flax.struct.field(default_factory=dict)
    shared_media: dict[str, KeyValue] = flax.struct.field(default_factory=dict)


def alibi_slopes(heads: int) -> Float[np.ndarray, "H"]:
    """Slopes of ALiBi's linear biases (Press et al. 2022), as MPT and BLOOM order them for any number of heads."""
    power = 2 ** int(np.ceil(np.log2(heads)))
    slopes = 2.0 ** (-8.0 * np.arange(1, power + 1) / power)
    if power != heads:
        slopes = np.concatenate([slopes[1::2], slopes[::2]])[:heads]
    return slopes.astype(np.float32)


class DecoderBlock(nn.Module):
    """One layer of self-attention, attention to the media where the config says so, and feed-forward."""

    config: DecoderConfig
    window: int | None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], context: Any, cache: KeyValue | None, kept: Any
    ) -> tuple[Float[Array, "B T D"], KeyValue | None, KeyValue | None]:
        """The output, the cache of the text, and the keys and values of the media."""
        config = self.config
        seen = None
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
            meeting = self._seen(context.meetings)
            meeting = meeting.replace(mask=dataclasses.replace(meeting.mask, window=self.window))
            how = {"mask": meeting.mask}
            if cache is not None:
                how = {"cache": cache, "meeting": meeting, "layer": kept.layer}
            if context.shared_masks:
                before = dataclasses.replace(self._seen(context.shared_masks), window=self.window)
                how |= {"shared": kept.shared_text[self.name], "shared_mask": before}
            return attend(y, y, positions=context.rope_positions, **how)

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
                y, seen = look(y, context.media, mask=context.media_mask, cache=kept.media.get(self.name))
                x = x + y
            y = feed_forward(norm("mlp_norm")(x))
            x = x + (norm("mlp_post_norm")(y) if config.norm_position == "sandwich" else y)
        return constrain(x, "batch", "length", "embed"), None if cache is None else pair, seen

    def _seen(self, by_kind):
        return by_kind[kind_of(self.window, by_kind)]

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
    def __call__(self, carry: tuple[Any, dict], kept: Any, context: Any) -> tuple[tuple[Any, dict], dict]:
        """`carry`: the text, and its caches by the name of the block (none: {}); returns those of new media too."""
        x, caches = carry
        caches, media = dict(caches), {}
        for name in block_names(self.cross, self.layers):
            if name.startswith("cross_"):
                block = GatedCrossAttention(self.cross, self.dtype, name=name)
                beside = {"shared": kept.shared_media.get(name), "shared_mask": context.shared_media_mask}
                x, media[name] = block(x, context.media, context.media_mask, kept.media.get(name), **beside)
            else:
                window = self.config.windows[int(name.removeprefix("self_")) % len(self.config.windows)]
                block = DecoderBlock(self.config, window, self.dtype, name=name)
                x, cache, media[name] = block(x, context, caches.get(name), kept)
                if cache is not None:
                    caches[name] = cache
            self.sow("hidden", f"{name}_output", x)
        looked = {name: pair for name, pair in media.items() if pair is not None}
        return (x, caches), looked if caches and context.media is not None else {}


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
        shared: SharedPrefix | None = None,
    ) -> DecoderOutput:
        """Hidden states of `tokens`; segment 0 is padding.

        Padding sees nothing, unless `query_segments` say which segment each token looks at. Which media a token looks
        at is said by `media_index`, or spelt out by `media_allowed`. `prefix [B,T]` marks keys that all of their
        segment may see, tokens of one of the `blocks [B,T]` see each other. `positions` are the order of a row; where
        `rope_positions` are given, these are what rotary embeddings turn by. With a `cache`, keys and values go to the
        places `write_index [B,T]`, and the tokens attend to the whole cache; without `write_index` they are the first
        in it. A `shared` prefix is seen by all rows besides, and its media by those whose `media_index` says so.
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
        meetings = {FULL: Meeting(mask)}
        if cache is not None:
            ordered = config.positions != "alibi" and not any(config.windows)
            meetings, told, held = meet(cache, mask, positions, segment_ids, write_index, ordered)
        media_mask = None
        if media is not None and media_allowed is not None:
            media_mask = AttentionMask(allowed=media_allowed)
        elif media is not None:
            media_mask = AttentionMask(query_segments=media_index, key_segments=media.segments, causal=False)
        shared_masks = {} if shared is None else see_shared(shared, mask.query_segments, positions)
        shared_media_mask = None
        if shared is not None and shared.media_segments is not None:
            shared_media_mask = AttentionMask(query_segments=media_index, key_segments=shared.media_segments)
        turned_by = positions if rope_positions is None else rope_positions
        features = media.features if media else None
        context = _Context(turned_by, meetings, shared_masks, features, media_mask, shared_media_mask)
        x, blocks, tail = self._layers(x, context, cache, shared)
        if config.final_norm:
            x = self._norm("final_norm")(x)
        new_cache = None if cache is None else DecoderCache(blocks, tail, told, held)
        return DecoderOutput(x, unembedding, new_cache, config.logits_softcap)

    def _norm(self, name):
        config = self.config
        return Norm(config.norm, config.norm_eps, config.norm_offset, config.norm_bias, name=name)

    def _embed(self, table, tokens, positions, token_types, inline):
        config = self.config
        x = lookup(table, tokens).astype(self.dtype)
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
        # Left where it lies: a lookup and a loss each bring it to a place of their own.
        init = nn.with_logical_partitioning(starting(nn.initializers.normal(config.embedding_init)), ("vocab", "embed"))

        def table(name, rows):
            first = self.param(name, init, (rows - config.added_vocab, config.width), jnp.float32)
            if not config.added_vocab:
                return first
            added = self.param(f"added_{name}", init, (config.added_vocab, config.width), jnp.float32)
            return jnp.concatenate([first, added], axis=0)

        embedding = table("embedding", config.vocab_size + config.extra_embeddings)
        return embedding, embedding if config.tied_embeddings else table("unembedding", config.vocab_size)

    def _table(self, name, rows):
        shape = (rows, self.config.width)
        return parameter(self, name, nn.initializers.normal(0.02), shape, (None, "embed"), self.dtype)

    def _layers(self, x, context, cache, shared):
        plan = self.plan
        block = remat(Superblock, self.config.remat)
        blocks, tail = (None, None) if cache is None else (cache.blocks, cache.tail)
        before = (None, None) if shared is None else (shared.cache.blocks, shared.cache.tail)
        if plan.superblocks and self.has_variable("params", one_by_one(0)):
            # Parameters of each superblock by themselves (see `decoding.writer.at_hand`): nothing is cut from a stack.
            settings = (self.config, self.cross, plan.layers_per_superblock, self.dtype)
            layers = [block(*settings, name=one_by_one(number)) for number in range(plan.superblocks)]
            x, blocks = _run_one_by_one(layers, x, context, blocks, before[0])
        elif plan.superblocks:
            scanned = nn.scan(
                block,
                variable_axes={"params": 0, "attention": 0, "hidden": 0},
                split_rngs={"params": True},
                in_axes=(0, nn.broadcast),
                out_axes=0,
                length=plan.superblocks,
                metadata_params={nn.PARTITION_NAME: "layers"},
                check_constancy_invariants=False,  # traced once; there is no variable that it would check
            )
            layers = scanned(self.config, self.cross, plan.layers_per_superblock, self.dtype, name="layers")
            # The text's caches are carried, so that a step writes its own places in them and copies no others.
            number = None if cache is None else jnp.arange(plan.superblocks, dtype=jnp.int32)
            x, blocks = _run(layers, x, context, blocks, before[0], number)
        if plan.tail_layers:
            last = block(self.config, self.cross, plan.tail_layers, self.dtype, name="tail")
            x, tail = _run(last, x, context, tail, before[1], None)
        return x, blocks, tail


def one_by_one(number: int) -> str:
    """The name of a superblock's parameters where they are not stacked."""
    return f"layers_{number}"


def _run_one_by_one(layers, x, context: _Context, cache: dict | None, shared: dict | None):
    """The superblocks that are stacked in the cache, whose parameters are not."""
    text, looked = {} if cache is None else cache["text"], []
    for number, layer in enumerate(layers):
        of_layer = functools.partial(jax.tree.map, operator.itemgetter(number))
        (x, text), media = layer((x, text), of_layer(_kept(context, cache, shared)).replace(layer=number), context)
        looked.append(media)
    return x, _cache_after(cache, text, jax.tree.map(lambda *each: jnp.stack(each), *looked))


def _run(layers, x, context: _Context, cache: dict | None, shared: dict | None, number):
    """One or all superblocks: the output, and the cache."""
    kept = _kept(context, cache, shared).replace(layer=number)
    (x, text), media = layers((x, {} if cache is None else cache["text"]), kept, context)
    return x, _cache_after(cache, text, media)


def _kept(context: _Context, cache: dict | None, shared: dict | None) -> _Kept:
    """What is read only: a shared prefix, and media that were looked at before."""
    kept = _Kept() if shared is None else _Kept(shared_text=shared["text"], shared_media=shared["media"])
    return kept if cache is None or context.media is not None else kept.replace(media=cache["media"])


def _cache_after(cache: dict | None, text: dict, media: dict) -> dict | None:
    """The cache with its new text, and with new media where there are any."""
    if cache is None:
        return None
    media = jax.tree.map(lambda new, held: new.astype(held.dtype), media, cache["media"]) if media else cache["media"]
    return {"text": text, "media": media}


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


def empty_cache(
    config: DecoderConfig,
    cross: GatedCrossAttentionConfig | None,
    *,
    batch: int,
    length: int,
    media_length: int = 0,
    dtype: Any = jnp.float32,
) -> DecoderCache:
    """A cache for rows of at most `length` tokens, and of `media_length` places for media, with nothing in it yet.

    Layers with a window hold no more of a row than they look back, and `SLACK`.
    """
    plan = plan_depth(config, cross)

    def pair(leading, places, attention):
        shape = (*leading, batch, places, attention.groups, attention.head_width)
        return KeyValue(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    places = places_by_kind(config.windows, length)

    def block(leading, layers):
        found = {"text": {}, "media": {}}
        for name in block_names(cross, layers):
            if name.startswith("cross_"):
                found["media"][name] = pair(leading, media_length, cross.attention)
                continue
            window = config.windows[int(name.removeprefix("self_")) % len(config.windows)]
            found["text"][name] = pair(leading, places[kind_of(window, places)], config.attention)
            if config.encoder_attention:
                found["media"][name] = pair(leading, media_length, config.attention)
        return found

    blocks = block((plan.superblocks,), plan.layers_per_superblock) if plan.superblocks else {}
    tail = block((), plan.tail_layers) if plan.tail_layers else {}
    positions, segments = (
        {kind: jnp.zeros((batch, size), jnp.int32) for kind, size in places.items()} for _ in range(2)
    )
    return DecoderCache(blocks, tail, positions, segments)
