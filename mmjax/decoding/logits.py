"""Which tokens may be written at all, and how those that are given are rated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.text.tokenizer import Tokenizer

# Ends of an answer; the other special tokens are never an answer's own.
STOPS = ("end_of_chunk", "eos")


def stop_tokens(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids of the tokens that end an answer."""
    return tuple(tokenizer.special[name] for name in STOPS)


def writable_tokens(tokenizer: Tokenizer, vocab_size: int) -> Bool[np.ndarray, "V"]:
    """Which of a model's `vocab_size` tokens it may write.

    Not the padding, the first token or an image, nor what a rounded-up vocabulary has beyond the tokenizer's.
    """
    writable = np.arange(vocab_size) < tokenizer.vocab_size
    for name, token in tokenizer.special.items():
        writable[token] = name in STOPS
    # A vocabulary may use one token for several purposes.
    writable[list(stop_tokens(tokenizer))] = True
    return writable


def rate_tokens(
    scores: Float[Array, "*S V"], tokens: Int[Array, "*S"], writable: Bool[Array, "V"]
) -> tuple[Float[Array, "*S"], Int[Array, "*S"]]:
    """Log-probability of each of `tokens`, and the token that greedy decoding would write in its place."""
    log_probabilities = jax.nn.log_softmax(scores, axis=-1)
    chosen = jnp.take_along_axis(log_probabilities, tokens[..., None], axis=-1)[..., 0]
    return chosen, best_tokens(scores, writable)


def best_tokens(scores: Float[Array, "*S V"], writable: Bool[Array, "V"]) -> Int[Array, "*S"]:
    """The writable token with the highest score; the first of equal ones."""
    return jnp.argmax(only(scores, writable), axis=-1).astype(jnp.int32)


def only(scores: Float[Array, "*S V"], writable: Bool[Array, "V"]) -> Float[Array, "*S V"]:
    """Minus infinity for what may not be written."""
    mask = writable.reshape((1,) * (scores.ndim - 1) + writable.shape)
    return jnp.where(mask, scores, -jnp.inf)
