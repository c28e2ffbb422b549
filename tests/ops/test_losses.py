"""The chunked loss against float64 numpy; and what it costs in memory and FLOPs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax.core.errors import InputError
from mmjax.ops import losses
from mmjax.ops.losses import linear_cross_entropy


@dataclasses.dataclass
class Question:
    """Float64 inputs of the loss."""

    hidden: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray | None
    targets: np.ndarray
    weights: np.ndarray
    softcap: float | None
    z_loss: float

    def answer(self):
        """Loss, nll, correct, and the gradients of hidden, kernel and bias, by their formulas."""
        raw = self.hidden @ self.kernel.T + (0 if self.bias is None else self.bias)
        logits = raw if self.softcap is None else self.softcap * np.tanh(raw / self.softcap)
        logz = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
        rows = np.arange(len(self.targets))
        nll = logz - logits[rows, self.targets]
        loss = (self.weights * (nll + self.z_loss * logz**2)).sum()
        pull = np.exp(logits - logz[:, None]) * (1 + 2 * self.z_loss * logz[:, None])
        pull[rows, self.targets] -= 1
        pull *= self.weights[:, None]
        if self.softcap is not None:
            pull *= 1 - np.tanh(raw / self.softcap) ** 2
        return loss, nll, logits.argmax(-1) == self.targets, (pull @ self.kernel, pull.T @ self.hidden, pull.sum(0))

    def asked(self, dtype=jnp.float32, kernel_dtype=jnp.float32):
        arrays = (
            jnp.asarray(self.hidden, dtype),
            jnp.asarray(self.kernel, kernel_dtype),
            None if self.bias is None else jnp.asarray(self.bias, kernel_dtype),
        )
        return arrays, jnp.asarray(self.targets, jnp.int32), jnp.asarray(self.weights, jnp.float32)


def random_question(tokens, words, width=8, bias=True, softcap=None, z_loss=0.0, seed=0):
    generator = np.random.default_rng(seed)
    return Question(
        generator.normal(size=(tokens, width)),
        generator.normal(size=(words, width)),
        generator.normal(size=words) if bias else None,
        generator.integers(0, words, tokens),
        generator.random(tokens) * (generator.random(tokens) < 0.7),
        softcap,
        z_loss,
    )


questions = st.builds(
    random_question,
    tokens=st.integers(1, 9),
    words=st.sampled_from([1, 2, 5, 12, 13]),
    width=st.sampled_from([1, 6]),
    bias=st.booleans(),
    softcap=st.sampled_from([None, 2.0]),
    z_loss=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 2**32 - 1),
)


@functools.partial(jax.jit, static_argnames=("chunk_size", "softcap", "z_loss"))
def loss_and_gradients(arrays, targets, weights, **options):
    """Of 3 * loss, so that the factor from outside is seen."""

    def tripled(arrays):
        hidden, kernel, bias = arrays
        found = linear_cross_entropy(hidden, kernel, targets, weights, bias=bias, **options)
        return 3 * found.loss, found

    (_, found), gradients = jax.value_and_grad(tripled, has_aux=True)(arrays)
    return found, gradients


@settings(max_examples=25, deadline=None)
@given(question=questions, chunk_size=st.integers(1, 10), block=st.sampled_from([3, 2048]))
def test_equals_float64(question, chunk_size, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "_SMALLEST_BLOCK", block)
        jax.clear_caches()
        arrays, targets, weights = question.asked()
        options = {"softcap": question.softcap, "z_loss": question.z_loss}
        found, gradients = loss_and_gradients(arrays, targets, weights, chunk_size=chunk_size, **options)
    loss, nll, correct, expected = question.answer()
    np.testing.assert_allclose(found.loss, loss, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.nll, nll, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.correct, correct)
    for gradient, right in zip(gradients, expected, strict=True):
        if gradient is not None:
            np.testing.assert_allclose(gradient, 3 * right, rtol=1e-4, atol=1e-4)


def test_undifferentiated_loss_is_the_same():
    question = random_question(7, 11, softcap=2.0, z_loss=0.1)
    (hidden, kernel, bias), targets, weights = question.asked()
    options = {"bias": bias, "softcap": 2.0, "z_loss": 0.1}
    found = linear_cross_entropy(hidden, kernel, targets, weights, chunk_size=3, **options)
    loss, nll, correct, _ = question.answer()
    np.testing.assert_allclose(found.loss, loss, rtol=1e-5)
    np.testing.assert_allclose(found.nll, nll, rtol=1e-5)
    np.testing.assert_array_equal(found.correct, correct)


@pytest.mark.parametrize("kernel_dtype", [jnp.bfloat16, jnp.float32])
def test_bfloat16_stays_near_float64(kernel_dtype):
    question = random_question(9, 50, width=32)
    question.kernel /= 6
    arrays, targets, weights = question.asked(jnp.bfloat16, kernel_dtype)
    found, gradients = loss_and_gradients(arrays, targets, weights, chunk_size=4)
    loss, _, _, expected = question.answer()
    assert found.loss.dtype == found.nll.dtype == jnp.float32
    assert [g.dtype for g in gradients] == [jnp.bfloat16, kernel_dtype, kernel_dtype]
    np.testing.assert_allclose(found.loss, loss, rtol=0.01)
    for gradient, right in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(np.asarray(gradient, np.float64), 3 * right, atol=0.02 * abs(3 * right).max())


def test_outer_factor_is_not_rounded_to_bfloat16():
    """The gradient is scaled in float32: 1/1003 has no 16-bit value near enough."""
    question = random_question(4, 5, bias=False)
    (hidden, kernel, _), targets, weights = question.asked(jnp.bfloat16, jnp.bfloat16)

    def gradient(factor):
        return jax.grad(lambda h: factor * linear_cross_entropy(h, kernel, targets, weights).loss)(hidden)

    expected = (np.asarray(gradient(1.0), np.float32) / 1003).astype(jnp.bfloat16)
    np.testing.assert_array_equal(gradient(1 / 1003), expected)


def test_first_of_equal_logits_counts_as_the_answer():
    zeros = jnp.zeros((3, 4))
    found = linear_cross_entropy(zeros, jnp.zeros((5, 4)), jnp.array([0, 1, 4]), jnp.ones(3))
    np.testing.assert_array_equal(found.correct, [True, False, False])


def test_per_token_results_pass_no_gradient():
    question = random_question(4, 5)
    (hidden, kernel, bias), targets, weights = question.asked()

    def total(hidden, weights):
        found = linear_cross_entropy(hidden, kernel, targets, weights, bias=bias)
        return found.nll.sum() + 0 * found.loss

    for gradient in jax.grad(total, (0, 1))(hidden, weights):
        assert (gradient == 0).all()


def test_targets_without_weight_may_be_anything():
    question = random_question(4, 5)
    arrays, targets, _ = question.asked()
    weights = jnp.array([1.0, 0, 1, 0])
    wild = jnp.where(weights == 0, -100, targets)
    usual = loss_and_gradients(arrays, targets, weights)
    for expected, found in zip(
        jax.tree.leaves(usual[1]), jax.tree.leaves(loss_and_gradients(arrays, wild, weights)[1]), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_inputs_that_do_not_fit_are_named():
    with pytest.raises(InputError, match=r"not \(4, 8\), \(5, 6\)"):
        linear_cross_entropy(jnp.ones((4, 8)), jnp.ones((5, 6)), jnp.zeros(4, jnp.int32), jnp.ones(4))
    with pytest.raises(InputError, match="chunk_size must be at least 1"):
        linear_cross_entropy(jnp.ones((4, 8)), jnp.ones((5, 8)), jnp.zeros(4, jnp.int32), jnp.ones(4), chunk_size=0)


WORDS, CHUNK, WIDTH = 128 * 1024, 256, 256
LOGITS = WORDS * CHUNK * 4


def temporary_bytes(differentiated, dtype, kernel_dtype, **options):
    """Of the compiled program of loss and gradient, over four chunks at a vocabulary of 128k."""

    def loss(hidden, kernel, targets, weights):
        return linear_cross_entropy(hidden, kernel, targets, weights, chunk_size=CHUNK, **options).loss

    tokens = 4 * CHUNK
    compiled = (
        jax.jit(jax.value_and_grad(loss, differentiated))
        .lower(
            jax.ShapeDtypeStruct((tokens, WIDTH), dtype),
            jax.ShapeDtypeStruct((WORDS, WIDTH), kernel_dtype),
            jax.ShapeDtypeStruct((tokens,), jnp.int32),
            jax.ShapeDtypeStruct((tokens,), jnp.float32),
        )
        .compile()
    )
    return compiled.memory_analysis().temp_size_in_bytes


PRECISIONS = [(jnp.float32, jnp.float32), (jnp.bfloat16, jnp.float32), (jnp.bfloat16, jnp.bfloat16)]


@pytest.mark.parametrize(("dtype", "kernel_dtype"), PRECISIONS)
@pytest.mark.parametrize("options", [{}, {"softcap": 30.0, "z_loss": 1e-4}], ids=["plain", "softcap, z-loss"])
def test_memory_with_a_frozen_kernel_is_the_logits_of_a_chunk(dtype, kernel_dtype, options):
    assert temporary_bytes((0,), dtype, kernel_dtype, **options) <= 1.2 * LOGITS


@pytest.mark.parametrize(("dtype", "kernel_dtype"), PRECISIONS)
def test_memory_with_a_trained_kernel_is_its_float32_gradient_more(dtype, kernel_dtype):
    """In float32 the sum is the result itself, and no temporary array."""
    summed_apart = WORDS * WIDTH * 4 if kernel_dtype == jnp.bfloat16 else 0
    assert temporary_bytes((0, 1), dtype, kernel_dtype) <= 1.25 * LOGITS + summed_apart


@pytest.mark.parametrize("kernel_axis", [None, "tensor"])
def test_sharded_loss_is_the_same_and_each_device_has_its_share(kernel_axis):
    """Of every chunk's tokens: with the kernel on each device, it holds a fourth of the logits."""
    question = random_question(4096, 2048, bias=False)
    (hidden, kernel, _), targets, weights = question.asked()
    auto, spec = jax.sharding.AxisType.Auto, jax.sharding.PartitionSpec
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(auto, auto))
    rows = jax.sharding.NamedSharding(mesh, spec("data"))
    hidden, targets, weights = (jax.device_put(x, rows) for x in (hidden, targets, weights))
    kernel = jax.device_put(kernel, jax.sharding.NamedSharding(mesh, spec(kernel_axis)))

    def loss(hidden, kernel):
        return linear_cross_entropy(hidden, kernel, targets, weights, chunk_size=1024).loss

    compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(hidden, kernel).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.6 * 1024 * 2048 * 4
    found, gradients = compiled(hidden, kernel)
    expected = question.answer()
    np.testing.assert_allclose(found, expected[0], rtol=1e-5)
    for gradient, right in zip(gradients, expected[3], strict=False):
        np.testing.assert_allclose(gradient, right, rtol=1e-3, atol=1e-3)
