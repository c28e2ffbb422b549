"""Small train states in the layout of the training loop, spread over simulated devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.checkpoints.leaves import name_leaves

CONFIG = {"seed": 0, "model": {"width": 8, "gates": [0.5, 1.0]}}


def mesh(rows, columns):
    return Mesh(np.array(jax.devices()[: rows * columns]).reshape(rows, columns), ("fsdp", "tensor"))


def make_state(seed, on):
    """A small train state in the layout of the training loop, spread over a mesh."""
    keys = jax.random.split(jax.random.key(seed), 4)
    params = {
        "decoder/blocks/kernel": jax.random.normal(keys[0], (2, 16, 24)),
        "decoder/blocks/bias": jax.random.normal(keys[1], (24,)),
        "resampler/latents": jax.random.normal(keys[2], (8, 16)).astype(jnp.bfloat16),
    }
    frozen = {"vision/embed": jax.random.normal(keys[3], (16, 8)), "vision/mask": jnp.array([True, False] * 4)}
    moments = jax.tree.map(lambda leaf: leaf + jnp.asarray(seed, leaf.dtype), optax.adamw(1e-3).init(params))
    state = {
        "step": jnp.asarray(seed, jnp.int32),
        "params": params,
        "frozen": frozen,
        "optimizer": moments,
        "ema": {name: leaf * 2 for name, leaf in params.items()},
        "guard": {"skipped": jnp.asarray(3, jnp.int32), "in_a_row": jnp.asarray(0, jnp.int32)},
    }
    return jax.tree.map(jax.device_put, state, shardings(state, on))


def shardings(state, on):
    def one(leaf):
        axes = [None] * leaf.ndim
        for axis, name in zip(reversed(range(leaf.ndim)), ("tensor", "fsdp"), strict=False):
            if leaf.shape[axis] % on.shape[name] == 0:
                axes[axis] = name
        return NamedSharding(on, PartitionSpec(*axes))

    return jax.tree.map(one, state)


def abstract(state, on):
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        shardings(state, on),
    )


def assert_same(left, right):
    left, right = name_leaves(left), name_leaves(right)
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert np.asarray(left[name]).tobytes() == np.asarray(right[name]).tobytes(), name


def save(checkpoints, step, state, **metrics):
    return checkpoints.save(step, state, position={"slot": step * 8}, config=CONFIG, metrics=metrics)
