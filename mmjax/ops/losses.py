"""Next-token loss from hidden states, without ever holding the logits of more than a chunk of tokens."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.core.errors import InputError

_BLOCKS = 16  # into which a CPU cuts a vocabulary: a block's arrays are small beside the whole logits
_SMALLEST_BLOCK = 2048  # words


class LanguageLoss(NamedTuple):
    """`loss` is the weighted sum over tokens; `nll` (in nats) and `correct` are a token's, and pass no gradient."""

    loss: Float[Array, ""]
    nll: Float[Array, "S"]
    correct: Bool[Array, "S"]


class _Options(NamedTuple):
    chunk_size: int
    softcap: float | None
    z_loss: float


class _Gradients(NamedTuple):
    """What is differentiated as arrays, and None for what is not."""

    hidden: Float[Array, "S D"] | None
    kernel: Float[Array, "V D"] | None
    bias: Float[Array, "V"] | None


def linear_cross_entropy(
    hidden: Float[Array, "S D"],
    kernel: Float[Array, "V D"],
    targets: Int[Array, "S"],
    weights: Float[Array, "S"],
    *,
    chunk_size: int = 1024,
    bias: Float[Array, "V"] | None = None,
    softcap: float | None = None,
    z_loss: float = 0.0,
) -> LanguageLoss:
    """sum(weights * (nll + z_loss * logz**2)) with logits = softcap(hidden kernel^T + bias).

    Tokens are taken `chunk_size` at a time, and their gradient is formed in the same pass, so that a
    chunk's float32 logits are all that is ever held (the idea of Hsu et al. 2024, Liger Kernel). What is
    not differentiated (a frozen kernel) costs no gradient. Matmuls run in hidden's dtype and add up in float32.

    A chunk takes every n-th token: where tokens are sharded, each device has its share of every chunk.

    Args:
      kernel: vocabulary first, as a tied embedding is.
      weights: of the targets, float32; 0 where there is none. Constants, as the targets are.
      z_loss: weight of the squared log-partition, which keeps logits from drifting (Chowdhery et al. 2022).

    Raises:
      InputError: shapes that do not fit, or a chunk size below 1.
    """
    if chunk_size < 1:
        raise InputError(f"chunk_size must be at least 1 token, not {chunk_size}")
    if hidden.shape[1:] != kernel.shape[1:] or not targets.shape == weights.shape == hidden.shape[:1]:
        raise InputError(
            "linear_cross_entropy needs hidden [S,D], kernel [V,D], targets [S] and weights [S], "
            f"not {hidden.shape}, {kernel.shape}, {targets.shape} and {weights.shape}"
        )
    targets, weights = targets.astype(jnp.int32), jax.lax.stop_gradient(weights).astype(jnp.float32)
    loss, nll, correct = _loss(hidden, kernel, bias, targets, weights, _Options(chunk_size, softcap, z_loss))
    return LanguageLoss(loss, jax.lax.stop_gradient(nll), correct)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _loss(hidden, kernel, bias, targets, weights, options):
    return _over_chunks(hidden, kernel, bias, targets, weights, options, _Gradients(False, False, False))[0]


def _loss_and_gradients(hidden, kernel, bias, targets, weights, options):
    wanted = _Gradients(hidden.perturbed, kernel.perturbed, bias is not None and bias.perturbed)
    hidden, kernel, bias, targets, weights = (
        None if x is None else x.value for x in (hidden, kernel, bias, targets, weights)
    )
    result, gradients = _over_chunks(hidden, kernel, bias, targets, weights, options, wanted)
    likes = hidden, kernel, bias
    return result, [None if g is None else g.astype(x.dtype) for g, x in zip(gradients, likes, strict=True)]


def _scaled(options, gradients, cotangents):
    del options
    scale = cotangents[0]
    scaled = [None if x is None else (x.astype(jnp.float32) * scale).astype(x.dtype) for x in gradients]
    return (*scaled, None, None)


_loss.defvjp(_loss_and_gradients, _scaled, symbolic_zeros=True)


def _over_chunks(hidden, kernel, bias, targets, weights, options, wanted):
    """Loss, and the gradients that are wanted, in one pass over chunks of tokens."""
    tokens = hidden.shape[0]
    chunks = max(-(-tokens // options.chunk_size), 1)
    rows = -(-tokens // chunks)

    def cut(x):
        filling = [(0, rows * chunks - tokens)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, filling).reshape(rows, chunks, *x.shape[1:])

    inputs = cut(hidden), cut(targets), cut(weights)
    sums = _Gradients(
        jnp.zeros(inputs[0].shape, hidden.dtype) if wanted.hidden else None,
        jnp.zeros(kernel.shape, jnp.float32) if wanted.kernel else None,
        jnp.zeros(bias.shape, jnp.float32) if wanted.bias else None,
    )
    # Accelerators form the gradient of the logits inside the matmuls that use it; a CPU wants it as an array.
    run = functools.partial(_chunk, options=options, wants_hidden=wanted.hidden)
    on_cpu = functools.partial(run, blocks=_block_count(kernel.shape[0]))
    elsewhere = functools.partial(run, blocks=1)

    def step(carry, index):
        loss, sums = carry
        tokens = tuple(jax.lax.dynamic_index_in_dim(x, index, 1, keepdims=False) for x in inputs)
        arguments = (*tokens, kernel, bias, sums.kernel, sums.bias)
        share, per_token, rows, *totals = jax.lax.platform_dependent(*arguments, cpu=on_cpu, default=elsewhere)
        if wanted.hidden:
            rows = jax.lax.dynamic_update_index_in_dim(sums.hidden, rows, index, 1)
        return (loss + share, _Gradients(rows, *totals)), per_token

    (loss, sums), per_token = jax.lax.scan(step, (jnp.float32(0), sums), jnp.arange(chunks))
    nll, correct = (x.T.reshape(-1)[:tokens] for x in per_token)
    if wanted.hidden:
        sums = sums._replace(hidden=sums.hidden.reshape(-1, hidden.shape[1])[:tokens])
    return (loss, nll, correct), sums


def _chunk(hidden, target, weight, kernel, bias, kernel_sum, bias_sum, *, options, wants_hidden: bool, blocks: int):
    """One chunk's loss, its tokens' (nll, correct), its hidden states' gradient, and the sums with its share added."""
    logits, at_target = _logits(hidden, target, kernel, bias, options.softcap, blocks)
    highest = logits.max(-1)
    logz = highest + jnp.log(jnp.exp(logits - highest[:, None]).sum(-1))
    nll = logz - at_target
    correct = jnp.argmax(logits, axis=-1).astype(target.dtype) == target
    loss = jnp.sum(weight * (nll + options.z_loss * jnp.square(logz)))

    def step(sums, first, words):
        hidden_sum, kernel_sum, bias_sum = sums
        pull = _pull(_slice(logits, first, words, 1), target - first, weight, logz, options)
        if bias_sum is not None:
            bias_sum = _put(bias_sum, _slice(bias_sum, first, words, 0) + pull.sum(0), first, 0)
        pull = pull.astype(hidden.dtype)
        if wants_hidden:
            matrix = _slice(kernel, first, words, 0).astype(hidden.dtype)
            hidden_sum += jnp.einsum("sv,vd->sd", pull, matrix, preferred_element_type=jnp.float32)
        if kernel_sum is not None:
            share = jnp.einsum("sv,sd->vd", pull, hidden, preferred_element_type=jnp.float32)
            kernel_sum = _put(kernel_sum, _slice(kernel_sum, first, words, 0) + share, first, 0)
        return hidden_sum, kernel_sum, bias_sum

    sums = (jnp.zeros(hidden.shape, jnp.float32) if wants_hidden else None, kernel_sum, bias_sum)
    if wants_hidden or kernel_sum is not None or bias_sum is not None:
        sums = _over_blocks(step, sums, kernel.shape[0], blocks)
    hidden_sum = sums[0].astype(hidden.dtype) if wants_hidden else None
    return loss, (nll, correct), hidden_sum, *sums[1:]


def _logits(hidden, target, kernel, bias, softcap, blocks: int):
    """Logits after the soft-cap, and those of the targets."""

    def step(carry, first, words):
        logits, at_target = carry
        matrix = _slice(kernel, first, words, 0).astype(hidden.dtype)
        block = jnp.einsum("sd,vd->sv", hidden, matrix, preferred_element_type=jnp.float32)
        if bias is not None:
            block += _slice(bias, first, words, 0).astype(jnp.float32)[None]
        if softcap is not None:
            block = softcap * jnp.tanh(block / softcap)
        at_target += jnp.where(_is_target(block, target - first), block, 0).sum(-1)
        return _put(logits, block, first, 1), at_target

    rows, words = hidden.shape[0], kernel.shape[0]
    start = jnp.zeros((rows, words), jnp.float32), jnp.zeros((rows,), jnp.float32)
    return _over_blocks(step, start, words, blocks)


def _is_target(logits, target):
    # A comparison, not a gather, so that a sharded vocabulary stays where it is.
    return jax.lax.broadcasted_iota(target.dtype, logits.shape, 1) == target[:, None]


def _pull(logits, target, weight, logz, options):
    """Gradient of the logits before the soft-cap."""
    share = (weight * (1 + 2 * options.z_loss * logz))[:, None] * jnp.exp(logits - logz[:, None])
    pull = share - jnp.where(_is_target(logits, target), weight[:, None], 0)
    return pull if options.softcap is None else pull * (1 - jnp.square(logits / options.softcap))


def _over_blocks(step, carry, words: int, blocks: int):
    """`carry` after step(carry, first word, words) for each block of the vocabulary."""
    if blocks == 1:
        return step(carry, 0, words)
    size = words // blocks
    firsts = jnp.arange(0, words, size, dtype=jnp.int32)
    return jax.lax.scan(lambda carry, first: (step(carry, first, size), None), carry, firsts)[0]


def _block_count(words: int) -> int:
    """At least `_BLOCKS` equal blocks, fewer for a small vocabulary; 1 where it has no fitting divisor."""
    fewest = min(-(-words // _SMALLEST_BLOCK), _BLOCKS)
    return next((count for count in range(fewest, 8 * fewest) if words % count == 0), 1)


def _slice(x, first, size: int, axis: int):
    if size == x.shape[axis]:
        return x
    if x.dtype.itemsize == 2:
        # A CPU widens 16-bit arrays to slice them; the barrier keeps it from doing so to all of x, before the loop.
        x, first = jax.lax.optimization_barrier((x, first))
    return jax.lax.dynamic_slice_in_dim(x, first, size, axis)


def _put(x, part, first, axis: int):
    if part.shape == x.shape:
        return part
    return jax.lax.dynamic_update_slice_in_dim(x, part, first, axis)
