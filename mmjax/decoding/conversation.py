"""One row that grows turn by turn: what the cache holds already of a conversation is not read again."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.core.errors import InputError
from mmjax.decoding.loop import Rules, Writing, advance_trail, choose, write_on
from mmjax.decoding.readers import Prepared, Reader
from mmjax.decoding.rows import bucket
from mmjax.decoding.sampling import Sampling, make_draw
from mmjax.decoding.trail import open_trail
from mmjax.decoding.writer import Opening, Writer, at_hand
from mmjax.models.decoders.cache import FULL, SLACK, DecoderCache
from mmjax.models.decoders.decoder import Inline, empty_cache
from mmjax.parallel.sharding import use_mesh

# The smallest bucket of the tokens that are read of a turn.
TURN_BUCKET = 32


class Chosen(NamedTuple):
    """A token that was written, its log-probability, and what it is called if it ends the text."""

    token: int
    log_probability: float
    ends: str | None


@dataclasses.dataclass(frozen=True)
class _Held:
    """What a cache holds of a conversation."""

    cache: DecoderCache
    tokens: tuple[int, ...]
    pictures: tuple[Any, ...]


class Conversation:
    """Reads and writes one row of at most `length` tokens.

    `read` is given the whole conversation each time. What it begins with is compared with what the cache holds, tokens
    and pictures: only what is new is read. So turns may be added, taken back or changed.
    """

    def __init__(self, reader: Reader, *, length: int):
        limit = reader.writer.decoder.max_length
        self.length = min(length, limit) if limit else length
        self._reader = reader
        self._writable = jnp.asarray(reader.writable)
        self._ends = jnp.asarray(np.isin(np.arange(len(reader.writable)), list(reader.ends)))
        self._held: _Held | None = None
        self._prompt: tuple[Opening, Float[Array, "1 V"]] | None = None

    @property
    def held(self) -> int:
        """How many tokens the cache holds."""
        return len(self._held.tokens) if self._held else 0

    def read(self, prepared: Prepared) -> int:
        """Reads what is new of a conversation, up to where is to be written; returns how many tokens that is.

        Raises:
          InputError: the conversation leaves no room to write.
        """
        tokens = tuple(int(token) for token in prepared.tokens)
        if len(tokens) >= self.length:
            raise InputError(
                f"the conversation has {len(tokens)} tokens and there are {self.length} positions, of which at least "
                "one must be left to write"
            )
        reader, start = self._reader, self._common(tokens, prepared.pictures)
        size = bucket(len(tokens) - start, TURN_BUCKET)
        opening = reader.open(prepared, bucket(start + size, TURN_BUCKET))
        part = _part_of(
            reader.mesh, dataclasses.replace(opening, sequences=opening.tokens[:, :0]), np.int32(start), size
        )
        cache = self._taken(start)
        cache, scores = _read(reader.writer, reader.mesh, reader.parameters, cache, part, np.int32(start))
        self._held = _Held(cache, tokens, prepared.pictures)
        nothing = part.tokens[:, :0]
        later = dataclasses.replace(part, first={}, tokens=nothing, positions=nothing, segments=nothing)
        self._prompt = (later, scores)
        return len(tokens) - start

    def write(self, sampling: Sampling, max_tokens: int) -> Iterator[Chosen]:
        """Writes after what was read last, at most `max_tokens` tokens, each as it is asked for; once for each `read`.

        What is written is held as far as it was asked for, so that it need not be read when it is part of what comes.
        """
        reader, held = self._reader, self._held
        (opening, scores), self._prompt, self._held = self._prompt, None, None
        start = len(held.tokens)
        most = min(max_tokens, self.length - start)
        rules = Rules(self._writable, self._ends, np.array([most], np.int32), make_draw(sampling, 1))
        row = np.zeros((1, self.length), np.int32)
        row[0, :start] = held.tokens
        there = np.arange(self.length)[None] < start
        writing = _first(opening, scores, rules, row, there).replace(cache=held.cache)
        with use_mesh(reader.mesh):
            near = at_hand(reader.writer, reader.parameters)
        read: list[int] = []
        try:
            for number in range(most):
                token, log_probability = int(writing.token[0]), float(writing.log_probabilities[0, number])
                ends = reader.ends.get(token)
                yield Chosen(token, log_probability, ends)
                if ends is not None or number + 1 == most:
                    return
                with use_mesh(reader.mesh):
                    writing = write_on(reader.writer, near, writing, rules, steps=1)
                read.append(token)
        finally:
            self._held = _Held(writing.cache, (*held.tokens, *read), held.pictures)

    def _common(self, tokens, pictures) -> int:
        """How many tokens are held already and may stay; one at least is read, to write after it."""
        held = self._held
        if held is None or any(old != new for old, new in zip(held.pictures, pictures, strict=False)):
            return 0
        pairs = list(zip(held.tokens, tokens[:-1], strict=False))
        common = next((number for number, (old, new) in enumerate(pairs) if old != new), len(pairs))
        rings = any(kind != FULL for kind in held.cache.segments)
        # What rings have written over cannot be taken back.
        return 0 if rings and len(held.tokens) - common > SLACK else common

    def _taken(self, count) -> DecoderCache:
        """A cache with the first `count` tokens; what was held is used up."""
        held, self._held, writer = self._held, None, self._reader.writer
        if count:
            return _rewound(held.cache, np.int32(count))
        sizes = {"batch": 1, "length": self.length, "media_length": writer.media_length}
        return empty_cache(writer.decoder, writer.cross, **sizes, dtype=writer.dtype)


@functools.partial(jax.jit, donate_argnums=0)
def _rewound(cache: DecoderCache, count: Int[Array, ""]) -> DecoderCache:
    """The cache without what stands at position `count` or later."""
    segments = {kind: jnp.where(cache.positions[kind] < count, held, 0) for kind, held in cache.segments.items()}
    return cache.replace(segments=segments)


@functools.partial(jax.jit, static_argnames=("mesh", "size"))
def _part_of(mesh: Mesh | None, opening: Opening, start: Int[Array, ""], size: int) -> Opening:
    """`size` tokens of an opening from `start` on, with all the media that there are."""

    def cut(rule):
        return jax.lax.dynamic_slice_in_dim(rule, start, size, 1)

    def cut_inline(inline: Inline) -> Inline:
        index = cut(inline.index)
        there = inline.features[jnp.arange(len(index))[:, None], jnp.maximum(index - 1, 0)]
        return Inline(there, jnp.where(index > 0, jnp.arange(1, size + 1, dtype=jnp.int32)[None], 0))

    first: dict[str, Any] = {}
    for name, rule in opening.first.items():
        whole = rule is None or name == "media"
        first[name] = rule if whole else cut_inline(rule) if name == "inline" else cut(rule)
    with use_mesh(mesh):
        rows = {name: cut(getattr(opening, name)) for name in ("tokens", "positions", "segments")}
        return dataclasses.replace(opening, **rows, first=first, sequences=opening.sequences[:, :0])


@functools.partial(jax.jit, static_argnames=("writer", "mesh"), donate_argnames="cache")
def _read(
    writer: Writer, mesh: Mesh | None, parameters: Mapping[str, Array], cache: DecoderCache, part: Opening, start
) -> tuple[DecoderCache, Float[Array, "1 V"]]:
    """The cache with a part of a conversation from place `start` on, and what the model says after its last token."""
    places = start + jnp.arange(part.tokens.shape[1], dtype=jnp.int32)[None]
    with use_mesh(mesh):
        output = writer.decode(
            parameters, part.tokens, part.positions, part.segments, cache=cache, write_index=places, **part.first
        )
        last = jnp.sum(part.segments, axis=1) - 1
        hidden = output.hidden[jnp.arange(len(last)), last][:, None]
        return output.cache, output.replace(hidden=hidden).logits()[:, 0]


@jax.jit
def _first(
    opening: Opening, scores: Float[Array, "1 V"], rules: Rules, tokens: Int[Array, "1 S"], there: Bool[Array, "1 S"]
) -> Writing:
    """The first token after a conversation of `tokens`; the cache is to be added."""
    trail = open_trail(tokens, there, rules.draw, vocabulary=scores.shape[1], spare=0)
    none = jnp.zeros(1, jnp.int32)
    token, log_probability = choose(scores, rules, trail, none)
    trail = advance_trail(trail, rules, token, none == 0)
    written = jnp.zeros_like(tokens)
    return Writing(
        opening=opening,
        cache=None,
        trail=trail,
        token=token,
        done=rules.ends[token] | (rules.limits <= 1),
        tokens=written.at[:, 0].set(token),
        log_probabilities=written.astype(jnp.float32).at[:, 0].set(log_probability),
        lengths=none + 1,
    )
