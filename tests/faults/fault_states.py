"""States whose every bit follows from the step, large enough that their arrays lie in files of their own."""

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.checkpoints.leaves import name_leaves

CONFIG = {"seed": 0}


def state_at(step):
    base = jnp.arange(48 * 1024, dtype=jnp.float32).reshape(48, 1024)
    return {
        "step": jnp.asarray(step, jnp.int32),
        "params": {f"decoder/{index}": base * (index + 1) + step for index in range(4)},
        "optimizer": {"mu": {f"decoder/{index}": base - step * (index + 1) for index in range(4)}},
    }


def save_step(checkpoints, step):
    state = state_at(step)
    checkpoints.save(step, state, position={"slot": 8 * step}, config=CONFIG, metrics={"score": -abs(step - 5)})


def assert_is_step(restored, step):
    assert (restored.step, restored.position) == (step, {"slot": 8 * step})
    found, expected = name_leaves(restored.state), name_leaves(state_at(step))
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def like():
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state_at(0))
