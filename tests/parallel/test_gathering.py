"""Gathered products: values, gradients and where they lie, and what is sent."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.parallel.gathering import gathered_dot
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.parallel.sharding import storage_spec, use_mesh

IN, OUT = ("embed", "heads", "head_dim"), ("heads", "head_dim", "embed")


def blocks(x, kernels):
    """Three residual layers of two products each, under a scan, recomputed in the backward pass."""

    def layer(x, pair):
        into, out = pair
        y = jnp.tanh(gathered_dot(x, into, 1, ("batch", "length", "embed"), IN))
        return x + gathered_dot(y, out, 2, ("batch", "length", "heads", "head_dim"), OUT), None

    return jnp.mean(jnp.square(jax.lax.scan(jax.checkpoint(layer, prevent_cse=False), x, kernels)[0]))


def arrays():
    random = np.random.default_rng(0)
    shapes = (8, 4, 128), (3, 128, 4, 32), (3, 4, 32, 128)
    x, into, out = (jnp.asarray(random.normal(size=shape) * 0.05, jnp.float32) for shape in shapes)
    return x, (into, out)


@pytest.mark.parametrize(
    "config",
    [
        MeshConfig(data=2, fsdp=2, tensor=2, strategy="full"),
        MeshConfig(data=2, fsdp=4),
        MeshConfig(slice=2, data=1, fsdp=2, sequence=2, strategy="global"),
        MeshConfig(data=1, fsdp=2, tensor=4, strategy="full"),
    ],
    ids=["full", "hybrid", "global", "tensor"],
)
def test_equals_one_device(config):
    mesh = make_mesh(config)
    expected = jax.jit(jax.value_and_grad(blocks, (0, 1)))(*arrays())
    with use_mesh(mesh, config.strategy):
        made = jax.jit(jax.value_and_grad(blocks, (0, 1)))(*arrays())
    for ours, theirs in zip(jax.tree.leaves(made), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * float(jnp.abs(theirs).max()))
    kept = storage_spec((3, 128, 4, 32), ("layers", *IN), mesh, config.strategy)
    assert made[1][1][0].sharding.is_equivalent_to(jax.sharding.NamedSharding(mesh, kept), 4)


def compiled(gradient_of):
    with use_mesh(make_mesh(MeshConfig(data=2, fsdp=4, strategy="full")), "full"):
        return jax.jit(jax.grad(blocks, gradient_of)).lower(*arrays()).compile()


def test_gradients_are_scattered_not_summed_whole():
    text = compiled(1).as_text()
    assert len(re.findall(r"= \S+ reduce-scatter\(", text)) == 4  # two kernels, along two axes each
    largest = [
        int(np.prod([int(n) for n in dims.split(",")])) for dims in re.findall(r"f32\[([\d,]+)\]\S* all-reduce", text)
    ]
    assert all(size < 128 * 4 * 32 // 2 for size in largest)


def test_what_does_not_train_sends_no_gradient():
    assert not re.findall(r"= \S+ reduce-scatter\(", compiled(0).as_text())
