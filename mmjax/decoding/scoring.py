"""Log-likelihoods of given continuations: a prompt is read once, and all its continuations share what was read."""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.core.errors import InputError
from mmjax.core.example import Media, Text
from mmjax.decoding.beginnings import read_beginning
from mmjax.decoding.flamingo import make_writer, open_rows
from mmjax.decoding.logits import rate_tokens, writable_tokens
from mmjax.decoding.pictures import PictureTable, encode_pictures, gather, picture_bytes, put
from mmjax.decoding.prompt import Prompt
from mmjax.decoding.rows import bucket, check_lengths, pad_rows, plan_buckets, tokenize_prompt
from mmjax.decoding.shared import PREFIX, cut, going_on, plan_groups
from mmjax.decoding.writer import Opening, Writer, begin, go_on
from mmjax.models.decoders.decoder import DecoderOutput
from mmjax.parallel.sharding import RULES, constrain, use_mesh
from mmjax.text.prompt import Tokenized
from mmjax.text.tokenizer import Tokenizer

# Compiling one more program takes about as long as running over so many tokens.
PROGRAM_TOKENS = 100_000
# Features of pictures that are kept at the same time.
PICTURE_BYTES = 1 << 30
# Batches that may wait for the device while the host prepares, or compiles, what comes next.
AHEAD = 24
# Tokens of a batch on each device: what stays in a CPU's cache, and what fills an accelerator.
BATCH_TOKENS = {"cpu": 2048, "other": 16_384}


class Continuations(NamedTuple):
    """Scores of the continuations of one prompt, in the order they were given.

    `log_likelihoods` are sums over a continuation's tokens. `greedy_tokens[c][t]` is what greedy decoding writes in
    the place of token t when the tokens before it are those of continuation c: where all of `tokens[c]` agree with
    them, greedy decoding writes exactly that continuation.
    """

    log_likelihoods: Float[np.ndarray, "C"]
    tokens: tuple[Int[np.ndarray, "T"], ...]
    greedy_tokens: tuple[Int[np.ndarray, "T"], ...]

    @property
    def best(self) -> int:
        """Index of the most probable continuation; the first of equal ones."""
        return int(np.argmax(self.log_likelihoods))

    def is_greedy(self, index: int) -> bool:
        """Whether greedy decoding writes this continuation."""
        return bool(np.array_equal(self.tokens[index], self.greedy_tokens[index]))


@flax.struct.dataclass
class Candidates:
    """Continuations of each row [B, C, T], and how many tokens each has (0: none)."""

    tokens: Array
    lengths: Array


class _Query(NamedTuple):
    """A prompt, or what follows the beginning that it shares with others: its tokens and pictures."""

    number: int
    text: Tokenized
    media: tuple[Media, ...]
    continuations: tuple[np.ndarray, ...]


class _Family(NamedTuple):
    """Queries that go on from one beginning, if there is any."""

    prefix: _Query | None
    queries: list[_Query]


class _Shape(NamedTuple):
    rows: int
    length: int
    images: int
    continuations: int
    continuation_length: int


def score_continuations(
    model: nn.Module,
    params: Mapping[str, Array],
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    continuations: Sequence[Sequence[Text]],
    *,
    mesh: Mesh | None = None,
    batch_tokens: int | None = None,
    share: bool = True,
    on_scored: Callable[[int], object] = lambda prompts: None,
) -> list[Continuations]:
    """log p(continuation | prompt) of every continuation of every prompt.

    A prompt (with its demonstrations) is read once into a cache that its continuations share; each different picture is
    encoded once. Prompts are sorted into a few lengths, chosen so that padding and compilation together cost least,
    and run in batches of about `batch_tokens` tokens a device (by default `BATCH_TOKENS`). Prompts that begin with the
    same demonstrations have these read once for all of them, unless `share` is False. `on_scored` is called with the
    number of prompts just done.

    Raises:
      InputError: a prompt without continuations, an empty continuation, or more tokens than the model's positions.
    """
    queries = [
        _Query(
            number,
            tokenize_prompt(prompt, tokenizer),
            prompt.media,
            tuple(_tokens(text, tokenizer) for text in texts),
        )
        for number, (prompt, texts) in enumerate(zip(prompts, continuations, strict=True))
    ]
    if any(not query.continuations or min(map(len, query.continuations)) == 0 for query in queries):
        raise InputError("every prompt needs at least one continuation to score, and no continuation may be empty")
    check_lengths(
        (len(query.text.tokens) + max(map(len, query.continuations)) for query in queries),
        model.config.decoder.max_length,
    )
    writable = jax.device_put(writable_tokens(tokenizer, model.config.decoder.vocab_size))
    scored: dict[int, Continuations] = {}
    running: collections.deque = collections.deque()

    def collect():
        batch, results = running.popleft()
        results = jax.device_get(results)
        scored.update((query.number, _read_out(query, results, row)) for row, query in enumerate(batch))
        on_scored(len(batch))

    room = max(1, PICTURE_BYTES // picture_bytes(model, params)) if queries else 0
    families = _families(queries, share)
    stops = {
        alone: plan_buckets(
            (len(query.text.tokens) for family in families if (family.prefix is None) == alone for query in family[1]),
            program_cost=PROGRAM_TOKENS,
        )
        for alone in (True, False)
    }
    prefix_stops = plan_buckets(
        (len(family.prefix.text.tokens) for family in families if family.prefix), program_cost=PROGRAM_TOKENS
    )
    for family in families:
        known = params
        if family.prefix is not None:
            text, media = family.prefix.text, family.prefix.media
            length = prefix_stops[np.searchsorted(prefix_stops, len(text.tokens))]
            begun = read_beginning(model, params, tokenizer, text, media, length=length, mesh=mesh)
            known = {**params, PREFIX: begun.prefix}
        batches = _batches(family.queries, stops[family.prefix is None], batch_tokens, mesh)
        for table, block in _blocks(batches, room):
            features = encode_pictures(model, params, table, capacity=bucket(max(1, len(table))), mesh=mesh)
            for shape, batch, slots in block:
                rows, candidates = _pad(batch, slots, shape, tokenizer)
                rows, candidates = jax.tree.map(lambda leaf: put(leaf, mesh), (rows, candidates))
                running.append((batch, _score(model, mesh, known, rows, features, candidates, writable)))
                if len(running) > AHEAD:
                    collect()
    while running:
        collect()
    return [scored[number] for number in range(len(queries))]


def _tokens(text, tokenizer):
    ids = tokenizer.encode(text.text)
    return np.array(ids + [tokenizer.special["end_of_chunk"]] * text.end_of_chunk, np.int32)


def _families(queries: Sequence[_Query], share: bool) -> list[_Family]:
    if not share:
        return [_Family(None, list(queries))]
    families = []
    for group in plan_groups([query.text for query in queries], [query.media for query in queries]):
        members = [queries[number] for number in group.members]
        if not group.length:
            families.append(_Family(None, members))
            continue
        first = members[0]
        prefix = first._replace(text=cut(first.text, group.length)[0], media=first.media[: group.pictures])
        rest = [
            query._replace(text=cut(query.text, group.length)[1], media=query.media[group.pictures :])
            for query in members
        ]
        families.append(_Family(prefix, rest))
    return families


def _batches(
    queries: Sequence[_Query], stops: Sequence[int], batch_tokens: int | None, mesh: Mesh | None
) -> Iterator[tuple[_Shape, list[_Query]]]:
    """Queries of one bucket and about as many continuations go together."""
    if batch_tokens is None:
        platform = (jax.devices() if mesh is None else mesh.devices.flat)[0].platform
        batch_tokens = BATCH_TOKENS.get(platform, BATCH_TOKENS["other"])
    ways = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in RULES["batch"])
    edges = np.searchsorted(stops, [len(query.text.tokens) for query in queries])
    for edge, length in enumerate(stops):
        here = [query for query, own in zip(queries, edges, strict=True) if own == edge]
        if not here:
            continue
        here.sort(key=lambda query: len(query.continuations))
        longest = max(len(tokens) for query in here for tokens in query.continuations)
        shape = _Shape(
            rows=ways * min(bucket(-(-len(here) // ways)), max(1, batch_tokens // length)),
            length=length,
            images=max(1, *(query.text.images for query in here)),
            continuations=len(here[-1].continuations),
            continuation_length=bucket(longest, 4),
        )
        for start in range(0, len(here), shape.rows):
            yield shape, here[start : start + shape.rows]


def _blocks(batches, room):
    """Consecutive batches whose different pictures, at most `room` (and the last batch's), are kept together."""
    table, block = PictureTable(), []
    for shape, batch in batches:
        slots = [[table.add(media) for media in query.media] for query in batch]
        block.append((shape, batch, slots))
        if len(table) >= room:
            yield table, block
            table, block = PictureTable(), []
    if block:
        yield table, block


def _pad(batch, slots, shape: _Shape, tokenizer):
    pad = tokenizer.special["pad"]
    rows = pad_rows(
        [query.text for query in batch], slots, rows=shape.rows, length=shape.length, images=shape.images, pad=pad
    )
    sizes = (shape.rows, shape.continuations, shape.continuation_length)
    return rows, stack_candidates([query.continuations for query in batch], sizes, pad=pad)


def stack_candidates(
    rows: Sequence[Sequence[Sequence[int]]], sizes: tuple[int, int, int], *, pad: int = 0
) -> Candidates:
    """The continuations of each row as arrays of `sizes` [B, C, T], filled with `pad`."""
    tokens, lengths = np.full(sizes, pad, np.int32), np.zeros(sizes[:2], np.int32)
    for row, continuations in enumerate(rows):
        for number, continuation in enumerate(continuations):
            tokens[row, number, : len(continuation)] = continuation
            lengths[row, number] = len(continuation)
    return Candidates(tokens, lengths)


def rate_candidate(
    writer: Writer,
    params: Mapping[str, Array],
    first: DecoderOutput,
    opening: Opening,
    candidates: Candidates,
    number: Int[Array, ""],
    writable: Bool[Array, "V"],
) -> tuple[Float[Array, "B"], Int[Array, "B T"]]:
    """log p of continuation `number` of each row after `first`, which has read the opening; and the greedy tokens."""
    tokens = jax.lax.dynamic_index_in_dim(candidates.tokens, number, 1, keepdims=False)
    lengths = jax.lax.dynamic_index_in_dim(candidates.lengths, number, 1, keepdims=False)
    present = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None] < lengths[:, None]
    output = go_on(writer, params, first.cache, opening, tokens, present, 0)
    # The prompt's last token tells the first of the continuation, and each of these the next.
    scores = output.replace(hidden=jnp.concatenate([first.hidden, output.hidden[:, :-1]], axis=1)).logits()
    log_probabilities, greedy = rate_tokens(scores, tokens, writable)
    return jnp.sum(jnp.where(present, log_probabilities, 0.0), axis=1), greedy


def _read_out(query, results, row):
    log_likelihoods, greedy = results
    count = len(query.continuations)
    greedy = tuple(greedy[row, number, : len(tokens)] for number, tokens in enumerate(query.continuations))
    return Continuations(log_likelihoods[row, :count], query.continuations, greedy)


@functools.partial(jax.jit, static_argnames=("model", "mesh"))
def _score(model, mesh, params, rows, features, candidates, writable):
    """Log-likelihoods [B, C] and greedy tokens [B, C, T]; the number of rounds is the batch's most continuations."""
    batch, count, length = candidates.tokens.shape
    with use_mesh(mesh):
        media = gather(features, rows.slots)
        writer, opening = make_writer(model, media), open_rows(rows, media)
        writer = going_on(writer) if PREFIX in params else writer
        first = begin(writer, params, opening, spare=length)

        def score_one(number, results):
            total, greedy = rate_candidate(writer, params, first, opening, candidates, number, writable)
            return results[0].at[:, number].set(total), results[1].at[:, number].set(greedy)

        start = (jnp.zeros((batch, count), jnp.float32), jnp.zeros((batch, count, length), jnp.int32))
        rounds = jnp.max(jnp.sum((candidates.lengths > 0).astype(jnp.int32), axis=1))
        results = jax.lax.fori_loop(0, rounds, score_one, start)
        return tuple(constrain(leaf, *(None,) * leaf.ndim) for leaf in results)
