"""From logits to the next token: greedy, temperature, top-k, top-p, min-p; and the settings of all that is asked."""

from __future__ import annotations

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Float, Int
from mmjax.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. temperature 0 is greedy: then the filters and the seed do not count.

    top_k: only the k most probable (0: all). top_p: only the most probable that together reach p (Holtzman et al.
    2020), after temperature and top_k. min_p: only those at least so probable in units of the most probable (Nguyen et
    al. 2024), after top_p. The same seed draws the same tokens.

    repetition_penalty: logits of tokens that the prompt or the text has are divided by it where they are positive, and
    multiplied where not (Keskar et al. 2019). no_repeat_ngram: no n tokens come twice in the same order (0: they may).
    min_tokens: so many are written before one that ends the text.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    min_tokens: int = 0

    def __post_init__(self):
        if not 0.0 <= self.temperature < float("inf"):
            raise InputError(f"temperature must be 0 (greedy) or more, not {self.temperature}")
        if not 0.0 < self.top_p <= 1.0:
            raise InputError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if not 0.0 <= self.min_p <= 1.0:
            raise InputError(f"min_p must be from 0 (all tokens) to 1, not {self.min_p}")
        if not 0.0 < self.repetition_penalty < float("inf"):
            raise InputError(f"repetition_penalty must be above 0 (1: none), not {self.repetition_penalty}")
        for name, meaning in (("top_k", "all tokens"), ("no_repeat_ngram", "all"), ("min_tokens", "none")):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be 0 ({meaning}) or more, not {getattr(self, name)}")


@flax.struct.dataclass
class Draw:
    """A `Sampling` for each row, as arrays, so that another temperature is no other program.

    Part of the program is what any row asks for: `sampled` (a temperature), `filtered` (top-k, top-p or min-p),
    `penalized` and `blocked` (n-grams).
    """

    temperature: Float[Array, "B"]
    top_k: Int[Array, "B"]
    top_p: Float[Array, "B"]
    min_p: Float[Array, "B"]
    repetition_penalty: Float[Array, "B"]
    no_repeat_ngram: Int[Array, "B"]
    min_tokens: Int[Array, "B"]
    keys: Array
    sampled: bool = flax.struct.field(pytree_node=False)
    filtered: bool = flax.struct.field(pytree_node=False)
    penalized: bool = flax.struct.field(pytree_node=False)
    blocked: bool = flax.struct.field(pytree_node=False)


def make_draw(sampling: Sampling, rows: int, samples: int = 1) -> Draw:
    """The draw of `rows` prompts, each of which is written `samples` times: rows * samples rows, those of a prompt
    together. Each has a key of its own, which does not depend on the other rows."""
    count = rows * samples
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(sampling.seed), jnp.arange(rows))
    if samples > 1:
        of_row = jax.vmap(jax.random.fold_in, (None, 0))
        keys = jax.vmap(of_row, (0, None))(keys, jnp.arange(samples)).reshape(-1)

    def each(value, dtype):
        return np.full(count, value, dtype)

    return Draw(
        temperature=each(sampling.temperature, np.float32),
        top_k=each(sampling.top_k, np.int32),
        top_p=each(sampling.top_p, np.float32),
        min_p=each(sampling.min_p, np.float32),
        repetition_penalty=each(sampling.repetition_penalty, np.float32),
        no_repeat_ngram=each(sampling.no_repeat_ngram, np.int32),
        min_tokens=each(sampling.min_tokens, np.int32),
        keys=keys,
        sampled=sampling.temperature > 0.0,
        filtered=sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0,
        penalized=sampling.repetition_penalty != 1.0,
        blocked=sampling.no_repeat_ngram > 0,
    )


def draw_tokens(scores: Float[Array, "B V"], draw: Draw, written: Int[Array, "B"] | Int[Array, ""]) -> Int[Array, "B"]:
    """The next token of each row, of which `written` are there; what is minus infinity is never drawn."""
    best = jnp.argmax(scores, axis=-1).astype(jnp.int32)
    if not draw.sampled:
        return best
    tempered = tempered_scores(scores, draw)
    keys = jax.vmap(jax.random.fold_in)(draw.keys, jnp.broadcast_to(written, draw.keys.shape))
    drawn = jax.vmap(jax.random.categorical)(keys, tempered).astype(jnp.int32)
    return jnp.where(draw.temperature > 0.0, drawn, best)


def tempered_scores(scores: Float[Array, "B V"], draw: Draw) -> Float[Array, "B V"]:
    """What is drawn from: scores over the temperature, and minus infinity for what the filters take away."""
    # Where the temperature is 0 nothing is drawn.
    scores = scores / jnp.where(draw.temperature > 0.0, draw.temperature, 1.0)[:, None]
    return keep_probable(scores, draw.top_k, draw.top_p, draw.min_p) if draw.filtered else scores


def keep_probable(
    scores: Float[Array, "B V"], top_k: Int[Array, "B"], top_p: Float[Array, "B"], min_p: Float[Array, "B"]
) -> Float[Array, "B V"]:
    """Minus infinity outside the top k, of these outside the smallest set whose probability reaches top_p, and of these
    below min_p times the highest.

    At least one token stays. Tokens that tie with the last one that stays are kept too.
    """
    vocabulary = scores.shape[-1]
    top_k, top_p, min_p = (x[:, None] for x in (top_k, top_p, min_p))
    descending = -jnp.sort(-scores, axis=-1)
    rank = jnp.arange(vocabulary)[None]
    count = jnp.where(top_k > 0, jnp.minimum(top_k, vocabulary), vocabulary)
    # Those that tie with the k-th are in.
    kth = jnp.take_along_axis(descending, count - 1, axis=-1)
    descending = jnp.where(descending >= kth, descending, -jnp.inf)
    probabilities = jax.nn.softmax(descending, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    # All of them together may add up to a little more or less than 1.
    kept = jnp.isfinite(descending) & ((before < top_p) | (top_p >= 1.0) | (rank == 0))
    descending = jnp.where(kept, descending, -jnp.inf)
    probabilities = jax.nn.softmax(descending, axis=-1)
    kept &= (probabilities >= min_p * probabilities[:, :1]) | (rank == 0)
    threshold = jnp.min(jnp.where(kept, descending, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(scores >= threshold, scores, -jnp.inf)
