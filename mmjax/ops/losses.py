"""Next-token loss from hidden states, without ever holding the logits of more than a chunk of tokens."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.core.errors import InputError

_BLOCKS = 16  # into which a CPU cuts a vocabulary: a block's arrays are small beside the whole logits
_SMALLEST_BLOCK = 2048  # words
# Of the logits: how much of the kernel an accelerator may hold in the dtype of the products.
_COPIED = 1 / 32


class LanguageLoss(NamedTuple):
    """`loss` is the weighted sum over tokens; `nll` (in nats) and `correct` are a token's, and pass no gradient."""

    loss: Float[Array, ""]
    nll: Float[Array, "*S"]
    correct: Bool[Array, "*S"]


@dataclasses.dataclass(frozen=True)
class LossShards:
    """How the loss is spread over a mesh: hidden states [B,T,D] by rows and positions, the kernel by its vocabulary.

    Along an axis that splits the vocabulary, the devices see each other's tokens, a chunk at a time; along the others
    each has the same words (vocabulary parallelism, Shoeybi et al. 2019, section 3, of any number of axes).
    """

    mesh: Mesh
    rows: tuple[str, ...]
    length: tuple[str, ...]
    vocab: tuple[str, ...]

    @property
    def tokens(self) -> tuple[str, ...]:
        """The axes that split tokens."""
        return (*self.rows, *self.length)

    @property
    def exchanged(self) -> tuple[str, ...]:
        """The axes that split both."""
        return tuple(axis for axis in self.tokens if axis in self.vocab)

    @property
    def apart(self) -> tuple[str, ...]:
        """The axes that split tokens only."""
        return tuple(axis for axis in self.tokens if axis not in self.vocab)

    def ways(self, axes: tuple[str, ...]) -> int:
        """Parts that `axes` cut a dimension into."""
        return math.prod(self.mesh.shape[axis] for axis in axes)


class _Options(NamedTuple):
    chunk_size: int
    softcap: float | None
    z_loss: float
    shards: LossShards | None


class _Gradients(NamedTuple):
    """What is differentiated as arrays, and None for what is not."""

    hidden: Float[Array, "*S D"] | None
    kernel: Float[Array, "V D"] | None
    bias: Float[Array, "V"] | None


def linear_cross_entropy(
    hidden: Float[Array, "*S D"],
    kernel: Float[Array, "V D"],
    targets: Int[Array, "*S"],
    weights: Float[Array, "*S"],
    *,
    chunk_size: int = 1024,
    bias: Float[Array, "V"] | None = None,
    softcap: float | None = None,
    z_loss: float = 0.0,
    shards: LossShards | None = None,
) -> LanguageLoss:
    """sum(weights * (nll + z_loss * logz**2)) with logits = softcap(hidden kernel^T + bias).

    Tokens are taken `chunk_size` at a time, and their gradient is formed in the same pass, so that a
    chunk's float32 logits are all that is ever held (the idea of Hsu et al. 2024, Liger Kernel). What is
    not differentiated (a frozen kernel) costs no gradient. Matmuls run in hidden's dtype and add up in float32.

    Args:
      kernel: vocabulary first, as a tied embedding is.
      weights: of the targets, float32; 0 where there is none. Constants, as the targets are.
      z_loss: weight of the squared log-partition, which keeps logits from drifting (Chowdhery et al. 2022).
      chunk_size: tokens whose logits may exist at a time; on a mesh, of those that a device would have by itself.
      shards: how hidden states [B,T,D] and the kernel lie on a mesh, whose axes divide them.

    Raises:
      InputError: shapes that do not fit, or a chunk size below 1.
    """
    if chunk_size < 1:
        raise InputError(f"chunk_size must be at least 1 token, not {chunk_size}")
    if hidden.shape[-1:] != kernel.shape[1:] or not targets.shape == weights.shape == hidden.shape[:-1]:
        raise InputError(
            "linear_cross_entropy needs hidden [...,D], kernel [V,D], targets [...] and weights [...], "
            f"not {hidden.shape}, {kernel.shape}, {targets.shape} and {weights.shape}"
        )
    targets, weights = targets.astype(jnp.int32), jax.lax.stop_gradient(weights).astype(jnp.float32)
    options = _Options(chunk_size, softcap, z_loss, shards)
    loss, nll, correct = _loss(hidden, kernel, bias, targets, weights, options)
    return LanguageLoss(loss, jax.lax.stop_gradient(nll), correct)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _loss(hidden, kernel, bias, targets, weights, options):
    return _whole(hidden, kernel, bias, targets, weights, options, _Gradients(False, False, False))[0]


def _loss_and_gradients(hidden, kernel, bias, targets, weights, options):
    wanted = _Gradients(hidden.perturbed, kernel.perturbed, bias is not None and bias.perturbed)
    hidden, kernel, bias, targets, weights = (
        None if x is None else x.value for x in (hidden, kernel, bias, targets, weights)
    )
    result, gradients = _whole(hidden, kernel, bias, targets, weights, options, wanted)
    likes = hidden, kernel, bias
    return result, [None if g is None else g.astype(x.dtype) for g, x in zip(gradients, likes, strict=True)]


def _scaled(options, gradients, cotangents):
    del options
    scale = cotangents[0]
    scaled = [None if x is None else (x.astype(jnp.float32) * scale).astype(x.dtype) for x in gradients]
    return (*scaled, None, None)


_loss.defvjp(_loss_and_gradients, _scaled, symbolic_zeros=True)


def _whole(hidden, kernel, bias, targets, weights, options, wanted):
    """(loss, nll, correct), and the gradients that are wanted, of all tokens of all devices."""
    shards = options.shards

    def run(hidden, kernel, bias, targets, weights):
        flat = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1), weights.reshape(-1)
        (loss, *per_token), gradients = _over_chunks(flat[0], kernel, bias, *flat[1:], options, wanted)
        own = [x.reshape(targets.shape) for x in per_token]
        own_hidden = gradients.hidden.reshape(hidden.shape) if wanted.hidden else None
        return (loss, *own), gradients._replace(hidden=own_hidden)

    if shards is None:
        return run(hidden, kernel, bias, targets, weights)
    tokens, words = P(shards.rows or None, shards.length or None), P(shards.vocab or None)
    columns = _columns(kernel.shape[1], shards)
    gradients = _Gradients(
        tokens if wanted.hidden else None,
        P(shards.vocab or None, columns or None) if wanted.kernel else None,
        words if wanted.bias else None,
    )
    # Cast before it is sent: the barrier keeps the compiler from sending first.
    kernel = jax.lax.optimization_barrier(kernel.astype(hidden.dtype))
    arguments = hidden, kernel, bias, targets, weights
    return jax.shard_map(
        run,
        mesh=shards.mesh,
        in_specs=(tokens, words, None if bias is None else words, tokens, tokens),
        out_specs=((P(), tokens, tokens), gradients),
        check_vma=False,
    )(*arguments)


def _columns(width: int, shards: LossShards) -> tuple[str, ...]:
    """The axes over which the kernel's gradient is scattered by columns when it is summed: the innermost first."""
    chosen: tuple[str, ...] = ()
    for axis in reversed(shards.apart):
        if width % shards.ways((*chosen, axis)) == 0:
            chosen = (*chosen, axis)
    return chosen


def _over_chunks(hidden, kernel, bias, targets, weights, options, wanted):
    """The same of one device's tokens, in one pass over chunks of them."""
    tokens, shards = hidden.shape[0], options.shards
    chunks = max(-(-tokens // options.chunk_size), 1)
    if shards is not None and shards.exchanged:
        # Half the logits leave room for hidden states of other devices, their gradients, and this one's words.
        chunks *= 2
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
    copied = shards is None and kernel.dtype.itemsize > 2
    elsewhere = functools.partial(run, blocks=_copied_blocks(rows, *kernel.shape) if copied else 1)

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
    if shards is None:
        return (loss, nll, correct), sums
    kernel_sum, bias_sum = sums.kernel, sums.bias
    if wanted.kernel:
        columns = _columns(hidden.shape[1], shards)
        for axis in columns:
            kernel_sum = jax.lax.psum_scatter(kernel_sum, axis, scatter_dimension=1, tiled=True)
        kernel_sum = jax.lax.psum(kernel_sum, tuple(axis for axis in shards.apart if axis not in columns))
    if wanted.bias:
        bias_sum = jax.lax.psum(bias_sum, shards.apart)
    # `loss` is of the device's own tokens.
    loss = jax.lax.psum(loss, shards.tokens)
    return (loss, nll, correct), sums._replace(kernel=kernel_sum, bias=bias_sum)


def _chunk(hidden, target, weight, kernel, bias, kernel_sum, bias_sum, *, options, wants_hidden: bool, blocks: int):
    """One chunk's loss, its tokens' (nll, correct), its hidden states' gradient, and the sums with its share added."""
    shards, own_weight = options.shards, weight
    hidden, target, weight = (_of_all(x, shards) for x in (hidden, target, weight))
    first_word = 0 if shards is None or not shards.vocab else jax.lax.axis_index(shards.vocab) * kernel.shape[0]
    target = target - first_word
    logits, at_target = _logits(hidden, target, kernel, bias, options.softcap, blocks)
    highest, total, at_target, correct = _over_vocabulary(logits, at_target, target, first_word, shards)
    logz = highest + jnp.log(total)
    own_logz, own_target, correct = (_own(x, own_weight.shape[0], shards) for x in (logz, at_target, correct))
    nll = own_logz - own_target
    loss = jnp.sum(own_weight * (nll + options.z_loss * jnp.square(own_logz)))

    # In one piece, the matrix unit adds up in float32 by itself; over blocks of words the sum has to.
    wide = hidden.dtype if blocks == 1 else jnp.float32

    def step(sums, first, words):
        hidden_sum, kernel_sum, bias_sum = sums
        pull = _pull(_slice(logits, first, words, 1), target - first, weight, logz, options)
        if bias_sum is not None:
            bias_sum = _put(bias_sum, _slice(bias_sum, first, words, 0) + pull.sum(0), first, 0)
        pull = pull.astype(hidden.dtype)
        if wants_hidden:
            matrix = _words(kernel, first, words, hidden.dtype)
            hidden_sum += jnp.einsum("sv,vd->sd", pull, matrix, preferred_element_type=wide)
        if kernel_sum is not None:
            share = jnp.einsum("sv,sd->vd", pull, hidden, preferred_element_type=jnp.float32)
            kernel_sum = _put(kernel_sum, _slice(kernel_sum, first, words, 0) + share, first, 0)
        return hidden_sum, kernel_sum, bias_sum

    sums = (jnp.zeros(hidden.shape, wide) if wants_hidden else None, kernel_sum, bias_sum)
    if wants_hidden or kernel_sum is not None or bias_sum is not None:
        sums = _over_blocks(step, sums, kernel.shape[0], blocks)
    hidden_sum = _summed(sums[0].astype(hidden.dtype), shards) if wants_hidden else None
    return loss, (nll, correct), hidden_sum, *sums[1:]


def _of_all(x, shards: LossShards | None):
    """`x` of the tokens of all devices that hold other words, one device's after the other's."""
    if shards is None or not shards.exchanged:
        return x
    return jax.lax.all_gather(x, shards.exchanged, axis=0, tiled=True)


def _own(x, tokens: int, shards: LossShards | None):
    """This device's tokens of those of `_of_all`."""
    if shards is None or not shards.exchanged:
        return x
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(shards.exchanged) * tokens, tokens, 0)


def _summed(hidden, shards: LossShards | None):
    """Gradients of all devices' tokens, each of some words only -> those of this device's tokens, of all words."""
    if shards is None:
        return hidden
    if shards.exchanged:
        hidden = jax.lax.psum_scatter(hidden, shards.exchanged, scatter_dimension=0, tiled=True)
    rest = tuple(axis for axis in shards.vocab if axis not in shards.exchanged)
    return jax.lax.psum(hidden, rest) if rest else hidden


def _over_vocabulary(logits, at_target, target, first_word, shards: LossShards | None):
    """Of all words: highest logit, sum of exp(logit - highest), the target's logit, whether that is the highest."""
    highest, best = logits.max(-1), jnp.argmax(logits, axis=-1).astype(target.dtype)
    if shards is None or not shards.vocab:
        return highest, jnp.exp(logits - highest[:, None]).sum(-1), at_target, best == target
    own_highest, highest = highest, jax.lax.pmax(highest, shards.vocab)
    best = jnp.where(own_highest == highest, best + first_word, jnp.iinfo(best.dtype).max)
    best = jax.lax.pmin(best, shards.vocab)
    total, at_target = jax.lax.psum((jnp.exp(logits - highest[:, None]).sum(-1), at_target), shards.vocab)
    return highest, total, at_target, best == target + first_word


def _logits(hidden, target, kernel, bias, softcap, blocks: int):
    """Logits after the soft-cap, and those of the targets."""

    def step(carry, first, words):
        logits, at_target = carry
        matrix = _words(kernel, first, words, hidden.dtype)
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


def _copied_blocks(rows: int, words: int, width: int) -> int:
    """Blocks of words, so that 16-bit copies of their part of the kernel are small beside the logits of `rows`."""
    least = math.ceil(2 * width / (4 * rows * _COPIED))
    return next((count for count in range(least, words // _SMALLEST_BLOCK + 1) if words % count == 0), 1)


def _words(kernel, first, words: int, dtype):
    """Rows of the kernel in the dtype of the products.

    A compiler moves casts before slices and out of loops, and would hold a copy of the whole kernel. It cannot move it
    before the sum with a number that depends on the slice, though that is always 0.
    """
    block = _slice(kernel, first, words, 0)
    if words < kernel.shape[0]:
        block += jnp.minimum(first, 0).astype(block.dtype)
    return block.astype(dtype)


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
