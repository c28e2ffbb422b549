"""Products with a matrix of outputs: the same whichever stands first, on CPU and elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.layers.linear import by_outputs
from mmjax.ops.attention import target_platform


@pytest.mark.parametrize("leading", [(), (1,), (3,), (2, 5), (2, 0)])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_it_is_the_product_with_the_transposed_matrix(leading, platform):
    random = np.random.default_rng(0)
    x, matrix = random.normal(size=(*leading, 24)), random.normal(size=(40, 24))
    with target_platform(platform), jax.default_matmul_precision("highest"):
        y = jax.jit(by_outputs)(x.astype(np.float32), matrix.astype(np.float32))
    np.testing.assert_allclose(y, x @ matrix.T, atol=1e-5)


def test_gradients_pass():
    random = np.random.default_rng(0)
    x, matrix, pull = (random.normal(size=size).astype(np.float32) for size in ((2, 3, 8), (5, 8), (2, 3, 5)))
    with jax.default_matmul_precision("highest"):
        of_x, of_matrix = jax.grad(lambda x, matrix: (by_outputs(x, matrix) * pull).sum(), (0, 1))(x, matrix)
    np.testing.assert_allclose(of_x, np.einsum("bto,oi->bti", pull, matrix), atol=1e-5)
    np.testing.assert_allclose(of_matrix, np.einsum("bto,bti->oi", pull, x), atol=1e-5)


def test_rows_of_a_map_are_apart():
    random = np.random.default_rng(0)
    x, matrix = random.normal(size=(4, 3, 8)).astype(np.float32), random.normal(size=(5, 8)).astype(np.float32)
    mapped = jax.vmap(by_outputs, (0, None))(x, matrix)
    np.testing.assert_allclose(mapped, by_outputs(x, matrix), atol=1e-6)


def test_narrow_inputs_add_up_wide():
    x, matrix = jnp.full((2, 4096), 1.0, jnp.bfloat16), jnp.full((3, 4096), 1.0078125, jnp.bfloat16)
    y = by_outputs(x, matrix, jnp.float32)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, 4096 * 1.0078125, rtol=1e-6)


def test_the_matrix_stays_first_in_the_program():
    """XLA would turn a transposed product round, and read the matrix half as fast for a few rows."""
    shapes = (jax.ShapeDtypeStruct((3, 24), jnp.float32), jax.ShapeDtypeStruct((40, 24), jnp.float32))
    with target_platform("cpu"):
        program = jax.jit(by_outputs).trace(*shapes).lower(lowering_platforms=("cpu",)).compile().as_text()
    assert "f32[40,3]" in program
