"""The portable attention backend: plain XLA, with what a flash kernel keeps and no more.

Keys and values are neither repeated for grouped heads nor widened; matmuls run in the input's dtype and
add up in float32. Between forward and backward only the output and one number a row are kept, the scores
are computed again (Dao et al. 2022), and long rows are taken a block of queries at a time.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from mmjax.ops.masks import AttentionMask

_UNSEEN = -1e30  # a score no real pair reaches; finite, so that no row computes inf - inf


def xla_attention(query, key, value, mask, scale, softcap, alibi_slopes, block):
    """Arguments as `attention`; `block` is the number of queries taken at once."""
    output = _attend(*_grouped(query, key, value, mask, alibi_slopes), scale, softcap, block)
    return _ungrouped(output)


def xla_attention_total(query, key, value, mask, scale, softcap, alibi_slopes, block):
    """The same, and the logarithm of each softmax's denominator [B,T,H] (`_UNSEEN` where nothing is seen).

    Not to be differentiated: for keys of which others are attended to elsewhere, see `merged`.
    """
    grouped = _grouped(query, key, value, mask, alibi_slopes)
    output, log_total = _forward(*grouped, scale, softcap, block, unseen=_UNSEEN)
    return _ungrouped(output), _ungrouped(log_total)[..., 0]


def merged(parts):
    """Attention over all keys, of (output, logarithm of the denominator) of attention to each part of them."""
    outputs, totals = zip(*parts, strict=True)
    totals = jnp.stack(totals)
    weights = jnp.exp(totals - totals.max(axis=0, keepdims=True))
    weights = weights / weights.sum(axis=0, keepdims=True)
    mixed = sum(
        weight[..., None] * output.astype(weight.dtype) for weight, output in zip(weights, outputs, strict=True)
    )
    return mixed.astype(outputs[0].dtype)


def _grouped(query, key, value, mask, alibi_slopes):
    """Arguments of `_attend`: query [B,G,R,T,K], key and value [B,G,S,K], mask, slopes [G,R]."""
    batch, queries, heads, width = query.shape
    groups = key.shape[2]
    grouped = query.reshape(batch, queries, groups, heads // groups, width).transpose(0, 2, 3, 1, 4)
    slopes = None if alibi_slopes is None else alibi_slopes.reshape(groups, heads // groups)
    return grouped, key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3), mask, slopes


def _ungrouped(x):
    """[B,G,R,T,K] -> [B,T,H,K]."""
    batch, groups, repeats, queries, width = x.shape
    return x.transpose(0, 3, 1, 2, 4).reshape(batch, queries, groups * repeats, width)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _attend(query, key, value, mask, slopes, scale, softcap, block):
    """query [B,G,R,T,K] (R heads share a key head), key [B,G,S,K], value [B,G,S,Kv] -> [B,G,R,T,Kv]."""
    return _forward(query, key, value, mask, slopes, scale, softcap, block)[0]


def _forward(query, key, value, mask, slopes, scale, softcap, block, unseen=0.0):
    """The output, and the logarithm of each row's softmax denominator (`unseen` for a row that sees nothing)."""

    def one(rows):
        part, sides = rows
        scores, _ = _scores(part, key, _of_rows(mask, sides), slopes, scale, softcap)
        highest = jnp.maximum(scores.max(-1, keepdims=True), _UNSEEN / 10)
        weights = jnp.exp(scores - highest)
        total = weights.sum(-1, keepdims=True)
        mixed = jnp.einsum("bgrts,bgsk->bgrtk", weights.astype(value.dtype), value, preferred_element_type=scores.dtype)
        output = (mixed / jnp.where(total == 0, 1, total)).astype(value.dtype)
        return output, jnp.where(total == 0, unseen, highest + jnp.log(total))

    queries = query.shape[3]
    if queries <= block:
        return one((query, _sides(mask, queries)))
    parts = jax.lax.map(one, (_split(query, 3, block), _split(_sides(mask, queries), 1, block)))
    return jax.tree.map(lambda blocks: _joined(blocks, queries), parts)


def _remember(query, key, value, mask, slopes, scale, softcap, block):
    output, log_total = (
        checkpoint_name(x, "attention") for x in _forward(query, key, value, mask, slopes, scale, softcap, block)
    )
    return output, (query, key, value, mask, slopes, output, log_total)


def _backward(scale, softcap, block, kept, gradient):
    query, key, value, mask, slopes, output, log_total = kept
    wide = log_total.dtype
    inner = (gradient.astype(wide) * output.astype(wide)).sum(-1, keepdims=True)

    def one(rows):
        sides, (part, part_gradient, part_log_total, part_inner) = rows
        scores, cap_slope = _scores(part, key, _of_rows(mask, sides), slopes, scale, softcap)
        weights = jnp.exp(scores - part_log_total)
        value_gradient = jnp.einsum(
            "bgrts,bgrtk->bgsk", weights.astype(value.dtype), part_gradient, preferred_element_type=wide
        )
        pull = jnp.einsum("bgrtk,bgsk->bgrts", part_gradient, value, preferred_element_type=wide)
        pull = (weights * (pull - part_inner) * (scale * cap_slope)).astype(query.dtype)
        query_gradient = jnp.einsum("bgrts,bgsk->bgrtk", pull, key, preferred_element_type=wide)
        key_gradient = jnp.einsum("bgrts,bgrtk->bgsk", pull, part, preferred_element_type=wide)
        return query_gradient.astype(query.dtype), key_gradient, value_gradient

    def step(sums, rows):
        query_gradient, *parts = one(rows)
        return jax.tree.map(jnp.add, sums, parts), query_gradient

    queries = query.shape[3]
    sides, rows = _sides(mask, queries), (query, gradient, log_total, inner)
    if queries <= block:
        query_gradient, *sums = one((sides, rows))
    else:
        zeros = [jnp.zeros(key.shape, wide), jnp.zeros(value.shape, wide)]
        sums, parts = jax.lax.scan(step, zeros, (_split(sides, 1, block), _split(rows, 3, block)))
        query_gradient = _joined(parts, queries)
    key_gradient, value_gradient = sums
    return query_gradient, key_gradient.astype(key.dtype), value_gradient.astype(value.dtype), None, None


_attend.defvjp(_remember, _backward)


def _scores(query, key, mask, slopes, scale, softcap):
    """Scores [B,G,R,T,S] with unseen pairs at `_UNSEEN`, and the soft-cap's derivative."""
    wide = jnp.float64 if query.dtype == jnp.float64 else jnp.float32
    queries, keys = query.shape[3], key.shape[2]
    scores = jnp.einsum("bgrtk,bgsk->bgrts", query, key, preferred_element_type=wide) * scale
    cap_slope = 1.0
    if softcap is not None:
        bent = jnp.tanh(scores / softcap)
        scores, cap_slope = softcap * bent, 1 - jnp.square(bent)
    if slopes is not None:
        query_positions, key_positions = mask.positions(queries, keys)
        distance = jnp.abs(query_positions[:, :, None] - key_positions[:, None, :]).astype(wide)
        scores -= slopes.astype(wide)[None, :, :, None, None] * distance[:, None, None]
    if not mask.sees_all:
        scores = jnp.where(mask.dense(queries, keys)[:, None, None], scores, _UNSEEN)
    return scores, cap_slope


def _sides(mask: AttentionMask, queries: int):
    """What a mask says of its queries, to be cut into blocks beside them."""
    return mask.positions(queries, 1)[0], mask.query_segments, mask.query_blocks, mask.allowed


def _of_rows(mask: AttentionMask, sides) -> AttentionMask:
    positions, segments, blocks, allowed = sides
    return dataclasses.replace(
        mask, query_positions=positions, query_segments=segments, query_blocks=blocks, allowed=allowed
    )


def _split(tree, axis: int, block: int):
    """Cuts `axis` of every leaf into a leading axis of blocks; the last one is filled up with zeros."""

    def split(x):
        count = -(-x.shape[axis] // block)
        filling = [(0, count * block - x.shape[axis]) if i == axis else (0, 0) for i in range(x.ndim)]
        cut = jnp.pad(x, filling).reshape(*x.shape[:axis], count, block, *x.shape[axis + 1 :])
        return jnp.moveaxis(cut, axis, 0)

    return jax.tree.map(split, tree)


def _joined(parts, queries: int):
    """Blocks [n,B,G,R,block,K] back into rows [B,G,R,T,K]."""
    rows = jnp.moveaxis(parts, 0, 3)
    return rows.reshape(*rows.shape[:3], -1, rows.shape[-1])[:, :, :, :queries]
