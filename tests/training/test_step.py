"""The training step: what is applied, to what, and that neither parts nor devices change it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.ops.flops import count_flops
from mmjax.parallel.sharding import batch_sharding
from tests.training.tiny_runs import FROZEN, TinyRun

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture(scope="module")
def plain():
    return TinyRun("optim.ema_decay=0.9")


@pytest.fixture(scope="module")
def frozen():
    return TinyRun(FROZEN)


def assert_close(left, right, tolerance):
    for path, a, b in zip(jax.tree.leaves_with_path(left), jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance, err_msg=str(path[0]))


def test_the_loss_falls_and_every_parameter_moves(plain):
    state, losses = plain.first_state(), []
    start = jax.device_get(state.params)
    for step in range(30):
        state, metrics = plain.step(state, plain.read(0))
        losses.append(float(metrics.loss))
        assert int(state.step) == step + 1
    assert losses[-1] < 0.9 * losses[0]
    unmoved = [path for path, leaf in state.params.items() if np.array_equal(start[path], np.asarray(leaf))]
    assert not unmoved


def test_the_average_follows_the_parameters(plain):
    state = plain.first_state()
    expected = {path: np.asarray(leaf, np.float64) for path, leaf in state.params.items()}
    for step in range(3):
        state, _ = plain.step(state, plain.read(step))
        expected = {
            path: 0.9 * old + 0.1 * np.asarray(state.params[path], np.float64) for path, old in expected.items()
        }
    assert_close(expected, state.ema, 1e-6)


def test_parts_of_a_batch_sum_to_the_whole(plain):
    parts = TinyRun("optim.ema_decay=0.9", "accumulate_steps=4")
    batch = plain.read(0)
    whole_state, whole = plain.step(plain.first_state(), batch)
    parts_state, accumulated = parts.step(parts.first_state(), batch)
    np.testing.assert_allclose(float(whole.loss), float(accumulated.loss), rtol=1e-6)
    np.testing.assert_allclose(float(whole.gradient_norm), float(accumulated.gradient_norm), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(whole.tally.nll), np.asarray(accumulated.tally.nll), rtol=1e-5)
    # Adam divides by the gradient's own size, so that a gradient of rounding errors alone may step either way.
    assert_close(whole_state.optimizer[1].mu, parts_state.optimizer[1].mu, 1e-6)


def test_a_step_that_is_not_finite_changes_nothing_but_the_counters(plain):
    state, _ = plain.step(plain.first_state(), plain.read(0))
    batch = plain.read(1)
    broken = batch.replace(loss_weights=batch.loss_weights.at[0, 0].set(jnp.nan))
    after, metrics = plain.step(state, broken)
    assert not bool(metrics.finite)
    assert (int(after.step), int(after.skipped), int(after.nonfinite_in_row)) == (2, 1, 1)
    for name in ("params", "optimizer", "ema"):
        for old, new in zip(jax.tree.leaves(getattr(state, name)), jax.tree.leaves(getattr(after, name)), strict=True):
            np.testing.assert_array_equal(np.asarray(old), np.asarray(new))
    again, _ = plain.step(after, broken)
    assert int(again.nonfinite_in_row) == 2
    good, _ = plain.step(again, batch)
    assert (int(good.skipped), int(good.nonfinite_in_row)) == (2, 0)


def test_frozen_parameters_stay_and_cost_no_optimizer_memory(frozen, plain):
    state = frozen.first_state()
    before = jax.device_get(state.frozen)
    for step in range(2):
        state, _ = frozen.step(state, frozen.read(step))
    for path, leaf in state.frozen.items():
        np.testing.assert_array_equal(before[path], np.asarray(leaf))
    assert all(path.startswith(("vision/", "decoder/")) for path in state.frozen)
    moments = state.optimizer[1]
    assert set(moments.mu) == set(moments.nu) == set(state.params)
    assert not set(state.params) & set(state.frozen)


def test_frozen_parameters_cost_no_gradient(frozen, plain):
    """A frozen encoder costs its forward pass only; a frozen decoder that, and passing the gradient through."""
    all_trained = count_flops(plain.step_function, plain.plan.abstract, plain.batch)
    some_frozen = count_flops(frozen.step_function, frozen.plan.abstract, frozen.batch)
    config = plain.model.config
    tokens = plain.config.batch_size * plain.config.data.length
    layers, width, mlp = config.decoder.layers, config.decoder.width, config.decoder.mlp_width
    # Matrix products with the decoder's own weights: 4 width^2 of attention and 3 width mlp of the gated feed-forward.
    decoder = 2 * tokens * layers * (4 * width * width + 3 * width * mlp)
    saved = all_trained.total - some_frozen.total
    vision = _vision_flops(plain)
    unembedding = 2 * tokens * config.decoder.vocab_size * width
    # Saved: the weights' gradients of decoder and unembedding, and the vision encoder's whole backward pass.
    least = decoder + unembedding + vision
    assert least * 0.99 < saved < 1.6 * least


def _vision_flops(run):
    def encode(params, images):
        from mmjax.parallel.sharding import nested

        return run.model.apply(nested(params), images, method=lambda model, x: model.vision(x).features)

    params = {path: shape for path, shape in run.plan.shapes.items() if path.startswith("vision/")}
    data = run.config.data
    pictures = run.config.batch_size * data.images
    images = jax.ShapeDtypeStruct((pictures, data.image_size, data.image_size, 3), jnp.float32)
    return count_flops(encode, params, images).total


def test_each_data_set_weighs_as_it_is_told():
    """The loss is the weighted sum of the data sets' mean losses, however many tokens each has."""
    run = TinyRun(
        "data.sources={'few': {'kind': 'digits_read', 'weight': 1.0, 'loss_weight': 3.0}, "
        "'many': {'kind': 'digits_scene', 'weight': 3.0, 'loss_weight': 0.5}}"
    )
    loss, tally = run.loss(blank=False)(run.first_state(), run.read(0))
    means = np.asarray(tally.nll) / np.asarray(tally.weight)
    assert run.stream.dataset_names == ("few", "many")
    np.testing.assert_allclose(float(loss), 3.0 * means[0] + 0.5 * means[1], rtol=1e-5)


def test_blanked_pictures_change_the_loss_and_only_they(plain):
    state, batch = plain.first_state(), plain.read(0)
    shown, _ = plain.loss(blank=False)(state, batch)
    blank, _ = plain.loss(blank=True)(state, batch)
    assert float(shown) != float(blank)
    grey = batch.replace(images=jnp.full_like(batch.images, 128))
    np.testing.assert_array_equal(np.asarray(plain.loss(blank=False)(state, grey)[0]), np.asarray(blank))


def test_the_step_equals_the_loss_alone(plain):
    state, batch = plain.first_state(), plain.read(0)
    _, metrics = plain.step(state, batch)
    loss, _ = plain.loss(blank=False)(state, batch)
    np.testing.assert_allclose(float(metrics.loss), float(loss), rtol=1e-6)


@pytest.mark.parametrize(
    "mesh",
    [
        {"data": 2, "fsdp": 2, "tensor": 2},
        {"data": 4, "sequence": 2},
        pytest.param({"data": 8}, marks=pytest.mark.slow),
        pytest.param({"data": 1, "fsdp": 8}, marks=pytest.mark.slow),
    ],
)
def test_the_same_losses_on_eight_devices(plain, mesh):
    """10 steps in float32 stay within 1e-5 of a single device's."""
    many = TinyRun("optim.ema_decay=0.9", *(f"mesh.{axis}={size}" for axis, size in mesh.items()), devices=8)
    one_state, many_state = plain.first_state(), many.first_state()
    for path, leaf in one_state.params.items():
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(many_state.params[path]), err_msg=path)
    for step in range(10):
        batch = many.read(step)
        one_state, one = plain.step(one_state, batch)
        shardings = jax.tree.map(lambda leaf: batch_sharding(many.mesh, leaf.shape), batch)
        many_state, spread = jax.block_until_ready(many.step(many_state, jax.device_put(batch, shardings)))
        assert abs(float(one.loss) - float(spread.loss)) < 1e-5, f"step {step}"
