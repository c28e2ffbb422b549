"""The TPU attention backend: JAX's splash kernel, which skips what a causal mask or a window rules out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as grids

from mmjax.ops.masks import AttentionMask

_LANES = 128  # lengths are filled up to whole vector registers
_LARGEST_BLOCK = 512


def splash_refusal(query, key, value, mask: AttentionMask, alibi_slopes, parts: int = 1) -> str | None:
    """Why splash cannot do this, or None; `parts` into which the queries are cut."""
    if parts > 1 and mask.causal and (query.shape[1] // parts) % _LANES:
        return f"the parts of a row that is cut must be multiples of {_LANES}"
    if alibi_slopes is not None:
        return "it has no distance penalty (ALiBi)"
    if mask.causal and (mask.query_positions is not None or mask.key_positions is not None):
        return "it knows positions by their index only; leave the mask's positions unset"
    if mask.causal and mask.prefix is not None:
        return "it has no prefix"
    if mask.query_blocks is not None or mask.allowed is not None:
        return "it has neither blocks nor masks that are spelt out"
    if mask.window is not None and query.shape[1] != key.shape[1]:
        return "it has a window only where there are as many queries as keys"
    if query.dtype not in (jnp.bfloat16, jnp.float32):
        return f"it works in bfloat16 and float32, not {query.dtype}"
    return None


def splash_kernel(heads: int, queries: int, keys: int, mask: AttentionMask, softcap, interpret: bool, parts: int = 1):
    """The kernel for `heads` heads; `interpret` runs its program without a TPU, slowly.

    Where the queries are cut into `parts`, it has the blocks to visit of all of them.
    """
    rows, columns = parts * _filled(queries // parts), _filled(keys)
    return kernels.make_splash_mha(
        grids.MultiHeadMask([_grid(mask, (rows, columns))] * heads),
        block_sizes=_block_sizes(rows // parts, columns),
        attn_logits_soft_cap=softcap,
        head_shards=1,
        q_seq_shards=parts,
        residual_checkpoint_name="attention",
        interpret=interpret,
    )


def splash_attention(query, key, value, mask: AttentionMask, scale, kernel):
    """Arguments as `attention`; a part of the queries with its part of the kernel."""
    batch, queries = query.shape[:2]
    keys = key.shape[1]
    rows, columns = _filled(queries), _filled(keys)
    segments = _segments(mask, batch, queries, keys)
    if segments is None and (rows, columns) != (queries, keys):
        segments = (jnp.ones((batch, queries), jnp.int32), jnp.ones((batch, keys), jnp.int32))
    if segments is not None:
        query_segments, key_segments = (_fill(x, 1, _filled(x.shape[1])) for x in segments)
        segments = kernels.SegmentIds(query_segments, key_segments)
    heads_first = [
        _fill(x, 1, length).transpose(0, 2, 1, 3)
        for x, length in ((query * scale, rows), (key, columns), (value, columns))
    ]
    output = jax.vmap(kernel)(*heads_first, segments).transpose(0, 2, 1, 3)[:, :queries].astype(value.dtype)
    if segments is not None:
        # The kernel gives a row that sees nothing some mean of the values: it must be 0, and pass no gradient.
        output = jnp.where(mask.dense(queries, keys).any(-1)[:, :, None, None], output, 0)
    return output


def _segments(mask: AttentionMask, batch: int, queries: int, keys: int):
    if mask.query_segments is None and mask.key_segments is None:
        return None
    sides = ((mask.query_segments, queries), (mask.key_segments, keys))
    return tuple(
        jnp.ones((batch, length), jnp.int32) if x is None else jnp.broadcast_to(x, (batch, length)).astype(jnp.int32)
        for x, length in sides
    )


def _grid(mask: AttentionMask, shape: tuple[int, int]) -> grids.Mask:
    if mask.window is not None:
        return grids.LocalMask(shape, (mask.window - 1, 0), offset=0)
    return grids.CausalMask(shape) if mask.causal else grids.FullMask(shape)


def _block_sizes(rows: int, columns: int) -> kernels.BlockSizes:
    row, column = (max(b for b in (128, 256, _LARGEST_BLOCK) if n % b == 0) for n in (rows, columns))
    return kernels.BlockSizes(
        block_q=row,
        block_kv=column,
        block_kv_compute=column,
        block_q_dkv=row,
        block_kv_dkv=column,
        block_kv_dkv_compute=column,
        block_q_dq=row,
        block_kv_dq=column,
    )


def _filled(length: int) -> int:
    return -(-length // _LANES) * _LANES


def _fill(x, axis: int, length: int):
    filling = [(0, length - x.shape[axis]) if i == axis else (0, 0) for i in range(x.ndim)]
    return jnp.pad(x, filling)
