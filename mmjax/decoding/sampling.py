"""From logits to the next token: greedy, temperature, top-k, top-p."""

from __future__ import annotations

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from mmjax.core.arrays import Array, Float, Int
from mmjax.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. temperature 0 is greedy, and then nothing else counts.

    top_k: only the k most probable (0: all). top_p: only the most probable that together reach p (Holtzman et al.
    2020), after temperature and top_k. The same seed draws the same tokens.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if not self.temperature >= 0.0:
            raise InputError(f"temperature must be 0 (greedy) or more, not {self.temperature}")
        if self.top_k < 0:
            raise InputError(f"top_k must be 0 (all tokens) or more, not {self.top_k}")
        if not 0.0 < self.top_p <= 1.0:
            raise InputError(f"top_p must be above 0 and at most 1, not {self.top_p}")


@flax.struct.dataclass
class Draw:
    """A `Sampling` as arrays, so that another temperature is no other program.

    `greedy` and `filtered` (whether top-k or top-p takes anything away) are part of the program.
    """

    temperature: Float[Array, ""]
    top_k: Int[Array, ""]
    top_p: Float[Array, ""]
    keys: Array
    greedy: bool = flax.struct.field(pytree_node=False)
    filtered: bool = flax.struct.field(pytree_node=False)


def make_draw(sampling: Sampling, rows: int) -> Draw:
    """The draw of `rows` rows; each has a key of its own, which does not depend on the other rows."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(sampling.seed), jnp.arange(rows))
    return Draw(
        temperature=jnp.float32(sampling.temperature),
        top_k=jnp.int32(sampling.top_k),
        top_p=jnp.float32(sampling.top_p),
        keys=keys,
        greedy=sampling.temperature == 0.0,
        filtered=sampling.top_k > 0 or sampling.top_p < 1.0,
    )


def draw_tokens(scores: Float[Array, "B V"], draw: Draw, step: Int[Array, ""]) -> Int[Array, "B"]:
    """The next token of each row, given its logits; what is minus infinity is never drawn."""
    if draw.greedy:
        return jnp.argmax(scores, axis=-1).astype(jnp.int32)
    scores = scores / draw.temperature
    if draw.filtered:
        scores = keep_probable(scores, draw.top_k, draw.top_p)
    keys = jax.vmap(jax.random.fold_in, (0, None))(draw.keys, step)
    return jax.vmap(jax.random.categorical)(keys, scores).astype(jnp.int32)


def keep_probable(scores: Float[Array, "B V"], top_k: Int[Array, ""], top_p: Float[Array, ""]) -> Float[Array, "B V"]:
    """Minus infinity outside the top k and, of these, outside the smallest set whose probability reaches p.

    At least one token stays. Tokens that tie with the last one that stays are kept too.
    """
    vocabulary = scores.shape[-1]
    descending = -jnp.sort(-scores, axis=-1)
    rank = jnp.arange(vocabulary)[None]
    count = jnp.where(top_k > 0, jnp.minimum(top_k, vocabulary), vocabulary)
    descending = jnp.where(rank < count, descending, -jnp.inf)
    probabilities = jax.nn.softmax(descending, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    # All of them together may add up to a little more or less than 1.
    kept = jnp.isfinite(descending) & ((before < top_p) | (top_p >= 1.0) | (rank == 0))
    threshold = jnp.min(jnp.where(kept, descending, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(scores >= threshold, scores, -jnp.inf)
