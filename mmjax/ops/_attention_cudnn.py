"""The CUDA attention backend: cuDNN's flash kernel through `jax.nn.dot_product_attention`."""

from __future__ import annotations

import importlib.util

import jax
import jax.numpy as jnp

from mmjax.ops.masks import AttentionMask


def cudnn_refusal(query, key, value, mask: AttentionMask, softcap, alibi_slopes, platform: str) -> str | None:
    """Why cuDNN cannot do this, or None."""
    width = query.shape[-1]
    if platform not in ("gpu", "cuda"):
        return f"it runs on CUDA GPUs and this program is for {platform}"
    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        return "it is not installed; install jax[cuda12] or jax[cuda13]"
    if softcap is not None:
        return "it has no soft-cap"
    if alibi_slopes is not None:
        return "it has no distance penalty (ALiBi)"
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it works in bfloat16 and float16, not {query.dtype}"
    if width != value.shape[-1] or width % 8:
        return f"it needs keys and values of one width, a multiple of 8, not {width} and {value.shape[-1]}"
    newest = _compute_capability()
    if newest < 8:
        return f"it needs compute capability 8.0, not {newest}"
    if width > (256 if newest >= 9 else 128):
        return f"a head of {width} channels is too wide for compute capability {newest}"
    if _needs_grid(mask) and (query.shape[1] % 2 or key.shape[1] % 2):
        return "with segments, positions, blocks, a prefix or a mask spelt out it needs even lengths"
    if mask.window is not None and query.shape[1] != key.shape[1]:
        return "it has a window only where there are as many queries as keys"
    return None


def cudnn_attention(query, key, value, mask: AttentionMask, scale):
    """Arguments as `attention`. Causal masks and windows are the kernel's own, other rules a grid beside it."""
    queries, keys = query.shape[1], key.shape[1]
    by_index = mask.causal and not _has_positions(mask)
    grid = mask.dense(queries, keys) if _needs_grid(mask) else None
    output = jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=None if grid is None else grid[:, None],
        scale=scale,
        is_causal=by_index,
        local_window_size=(mask.window - 1, 0) if by_index and mask.window is not None else None,
        implementation="cudnn",
    )
    # The kernel gives a row that sees nothing the mean of all values: it must be 0, and pass no gradient.
    return output if grid is None else jnp.where(grid.any(-1)[:, :, None, None], output, 0)


def _has_positions(mask: AttentionMask) -> bool:
    rules = (mask.query_positions, mask.key_positions, mask.prefix, mask.query_blocks)
    return any(rule is not None for rule in rules)


def _needs_grid(mask: AttentionMask) -> bool:
    segments = mask.query_segments is not None or mask.key_segments is not None
    return segments or mask.allowed is not None or (mask.causal and _has_positions(mask))


def _compute_capability() -> float:
    """Of this machine's GPU; that of the A100 where the program is compiled for a GPU elsewhere."""
    if jax.default_backend() != "gpu":
        return 8.0
    return float(jax.local_devices()[0].compute_capability)
