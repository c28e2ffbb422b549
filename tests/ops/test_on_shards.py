"""Attention and the chunked loss spread over eight devices: the same values and gradients as on one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.ops.attention import AttentionShards, attention
from mmjax.ops.losses import LossShards, linear_cross_entropy
from mmjax.ops.masks import AttentionMask
from mmjax.parallel.mesh import MeshConfig, make_mesh
from tests.quick import quick_jit


def close(ours, theirs, tolerance=1e-5):
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * max(1.0, float(np.abs(np.asarray(y)).max())))


def packed(batch, length):
    """Two examples and padding in every row."""
    ids = np.where(np.arange(length) < length // 3, 1, 2) * (np.arange(length) < length - 3)
    return jnp.asarray(np.broadcast_to(ids, (batch, length)), jnp.int32)


MASKS = {
    "packed": lambda b, t: AttentionMask(query_segments=packed(b, t), key_segments=packed(b, t), causal=True),
    "window": lambda b, t: AttentionMask(causal=True, window=5),
    "prefix": lambda b, t: AttentionMask(causal=True, prefix=jnp.arange(t)[None] < 3),
    "spelt out": lambda b, t: AttentionMask(allowed=jnp.tril(jnp.ones((1, t, t), bool))),
    "cross": lambda b, t: AttentionMask(query_segments=packed(b, t), key_segments=packed(b, t)),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_attention_over_rows_heads_and_positions(mask, kv_heads):
    """Heads over 2 devices (key heads over as many, or one for both), positions over 2, rows over 2."""
    mesh = make_mesh(MeshConfig(data=2, tensor=2 if kv_heads == 4 else 4, sequence=2 if kv_heads == 4 else 1))
    length = ("sequence",) if kv_heads == 4 else ()
    shards = AttentionShards(mesh, ("data",), ("tensor",), length)
    random = np.random.default_rng(0)
    query = jnp.asarray(random.normal(size=(2, 16, 4, 8)), jnp.float32)
    key, value = (jnp.asarray(random.normal(size=(2, 16, kv_heads, 8)), jnp.float32) for _ in range(2))
    pull = jnp.asarray(random.normal(size=query.shape), jnp.float32)

    def run(shards):
        def loss(query, key, value):
            y = attention(query, key, value, mask=MASKS[mask](2, 16), backend="xla", shards=shards)
            return jnp.sum(y * pull), y

        return quick_jit(jax.grad(loss, (0, 1, 2), has_aux=True))(query, key, value)

    close(run(shards), run(None))


def test_splash_over_positions():
    """Each device visits the blocks of its own queries only, and its rows keep their places in the causal order."""
    mesh = make_mesh(MeshConfig(data=1, sequence=2), jax.devices()[:2])
    random = np.random.default_rng(1)
    query, key, value = (jnp.asarray(random.normal(size=(1, 256, 2, 64)), jnp.float32) for _ in range(3))
    mask = AttentionMask(query_segments=packed(1, 256), key_segments=packed(1, 256), causal=True)
    shards = AttentionShards(mesh, (), (), ("sequence",))
    ours = jax.jit(lambda *x: attention(*x, mask=mask, backend="splash", shards=shards))(query, key, value)
    close(ours, attention(query, key, value, mask=mask, backend="reference"), 1e-5)


@pytest.mark.parametrize("window", [None, 40])
def test_splash_over_rows_heads_and_positions(window):
    """Values and gradients, where every device has a row, a head and half of the positions."""
    mesh = make_mesh(MeshConfig(data=2, tensor=2, sequence=2))
    random = np.random.default_rng(2)
    query, key, value, pull = (jnp.asarray(random.normal(size=(2, 256, 2, 64)), jnp.float32) for _ in range(4))
    mask = AttentionMask(query_segments=packed(2, 256), key_segments=packed(2, 256), causal=True, window=window)

    def run(backend, shards):
        def loss(query, key, value):
            y = attention(query, key, value, mask=mask, backend=backend, shards=shards)
            return jnp.sum(y * pull), y

        return quick_jit(jax.grad(loss, (0, 1, 2), has_aux=True))(query, key, value)

    shards = AttentionShards(mesh, ("data",), ("tensor",), ("sequence",))
    close(run("splash", shards), run("reference", None))


MESHES = {
    "tokens": (MeshConfig(data=2, fsdp=2, sequence=2), ("data", "fsdp", "sequence")),
    "slices and tensor": (MeshConfig(slice=2, data=1, fsdp=2, tensor=2), ("fsdp", "tensor")),
}


@pytest.mark.parametrize("name", MESHES)
def test_the_loss_with_words_over_any_axes(name):
    config, axes = MESHES[name]
    mesh = make_mesh(config)
    random = np.random.default_rng(0)
    hidden, kernel, bias = (
        jnp.asarray(random.normal(size=shape) / 4, jnp.float32) for shape in ((8, 6, 16), (64, 16), (64,))
    )
    targets = jnp.asarray(random.integers(0, 64, (8, 6)), jnp.int32)
    weights = jnp.asarray(random.uniform(size=(8, 6)), jnp.float32)

    def run(shards):
        def loss(hidden, kernel, bias):
            made = linear_cross_entropy(
                hidden, kernel, targets, weights, chunk_size=5, bias=bias, softcap=5.0, z_loss=1e-2, shards=shards
            )
            return 2.0 * made.loss, made

        return quick_jit(jax.grad(loss, (0, 1, 2), has_aux=True))(hidden, kernel, bias)

    expected = run(None)
    rows = tuple(axis for axis in ("slice", "data", "fsdp") if mesh.shape[axis] > 1)
    length = ("sequence",) if mesh.shape["sequence"] > 1 else ()
    for size in range(len(axes) + 1):
        for vocab in itertools.combinations(axes, size):
            close(run(LossShards(mesh, rows, length, vocab)), expected)
