"""What a row has had so far, and what it may therefore not write, or less likely: repetitions, n-grams, early ends."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.decoding.sampling import Draw


@flax.struct.dataclass
class Trail:
    """`seen`: which tokens the row has; `tokens`: in order, without padding, `length` of them. None where not asked.

    node: where in the tree of answers the row is (see `decoding.answers`).
    """

    seen: Bool[Array, "B V"] | None
    tokens: Int[Array, "B S"] | None
    length: Int[Array, "B"]
    node: Int[Array, "B"] | None = None


def open_trail(
    tokens: Int[Array, "B T"], present: Bool[Array, "B T"], draw: Draw, *, vocabulary: int, spare: int
) -> Trail:
    """The trail of prompts, with room for `spare` more tokens:

    prompt  . a b . c      tokens  a b c | . .      length  3
            x y . . .              x y . | . .              2
    """
    rows = jnp.arange(len(tokens))[:, None]
    seen = order = None
    if draw.penalized:
        seen = (
            jnp.zeros((len(tokens), vocabulary), bool)
            .at[rows, _or_nowhere(tokens, present, vocabulary)]
            .set(True, mode="drop")
        )
    if draw.blocked:
        room = tokens.shape[1] + spare
        place = jnp.cumsum(present, axis=1, dtype=jnp.int32) - 1
        order = (
            jnp.zeros((len(tokens), room), jnp.int32)
            .at[rows, _or_nowhere(place, present, room)]
            .set(tokens, mode="drop")
        )
    return Trail(seen, order, jnp.sum(present, axis=1, dtype=jnp.int32))


def follow(trail: Trail, token: Int[Array, "B"], here: Bool[Array, "B"]) -> Trail:
    """The trail after one more token, of the rows that are `here`."""
    rows = jnp.arange(len(token))
    seen, tokens = trail.seen, trail.tokens
    if seen is not None:
        seen = seen.at[rows, _or_nowhere(token, here, seen.shape[1])].set(True, mode="drop")
    if tokens is not None:
        tokens = tokens.at[rows, _or_nowhere(trail.length, here, tokens.shape[1])].set(token, mode="drop")
    return trail.replace(seen=seen, tokens=tokens, length=trail.length + here.astype(jnp.int32))


def penalize(scores: Float[Array, "B V"], trail: Trail, draw: Draw) -> Float[Array, "B V"]:
    """Scores (logits, or log-probabilities) with the repetition penalty, and minus infinity for blocked n-grams."""
    if draw.penalized:
        penalty = draw.repetition_penalty[:, None]
        scores = jnp.where(trail.seen, jnp.where(scores < 0, scores * penalty, scores / penalty), scores)
    if draw.blocked:
        scores = jnp.where(_completes_ngram(trail, draw.no_repeat_ngram, scores.shape[1]), -jnp.inf, scores)
    return scores


def withhold_ends(
    scores: Float[Array, "B V"], ends: Bool[Array, "V"], written: Int[Array, "B"], min_tokens: Int[Array, "B"]
) -> Float[Array, "B V"]:
    """Minus infinity for the tokens that end a text, in rows of fewer than `min_tokens`."""
    return jnp.where((written < min_tokens)[:, None] & ends[None], -jnp.inf, scores)


def _completes_ngram(trail, size, vocabulary):
    """Which tokens stand, somewhere in the row, behind the same size - 1 tokens as those that it ends with."""
    tokens, length = trail.tokens, trail.length[:, None]
    place = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    size = size[:, None]
    # Only places with so many tokens before them are behind anything; a size of 0 blocks nothing.
    follows = (size > 0) & (place < length) & (place >= size - 1)

    def match(back, follows):
        last = jnp.take_along_axis(tokens, jnp.maximum(length - back, 0), axis=1)
        return follows & ((jnp.roll(tokens, back, axis=1) == last) | (back >= size))

    follows = jax.lax.fori_loop(1, jnp.max(size), match, follows)
    rows = jnp.arange(len(tokens))[:, None]
    return (
        jnp.zeros((len(tokens), vocabulary), bool)
        .at[rows, _or_nowhere(tokens, follows, vocabulary)]
        .set(True, mode="drop")
    )


def _or_nowhere(index, there, size):
    """Places outside, which a scatter drops, for what is not there."""
    return jnp.where(there, index, size)
