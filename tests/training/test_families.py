"""Two towers, and pictures in the text, are trained by Flamingo's step: they learn, packed or not, on any mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import ConfigError
from mmjax.core.example import Example, Media, Text
from mmjax.data.assemble import BatchShape, assemble, read_example
from mmjax.models.families import forward
from mmjax.models.inline import places_of_features, prefix_of
from mmjax.objectives.language import position_weights
from mmjax.ops.flops import count_flops
from mmjax.parallel.sharding import batch_sharding, nested
from tests.quick import quick_jit
from tests.training.tiny_runs import TinyRun, tiny_config

CONTRASTIVE = ("clip_l14", "siglip_so400m")
INLINE = ("llava_1_5_7b", "paligemma_3b")
# Pictures of several digits, whose captions differ.
CAPTIONS = "data.sources={'captions': {'kind': 'digits_scene', 'options': {'kinds': ['all'], 'count': 64}}}"
QUICKLY = ("optim.schedule={'kind': 'constant'}", "optim.weight_decay=0.0", CAPTIONS)

pytestmark = pytest.mark.usefixtures("quick_programs")


def losses(run, steps):
    state, batch, found = run.first_state(), run.read(0), []
    for _ in range(steps):
        state, metrics = run.step(state, batch)
        found.append(float(metrics.loss))
    return found, metrics


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_two_towers_learn_eight_pairs(name):
    """From chance (the logarithm of eight for the softmax) to a fraction of it, in both directions."""
    run = TinyRun(*QUICKLY, "optim.learning_rate=4e-3", name=name)
    found, metrics = losses(run, 120)
    assert found[-1] < 0.5
    assert found[0] > 2.0
    assert int(metrics.tally.weight[0]) == run.config.batch_size
    for score in ("image_to_text_accuracy", "text_to_image_accuracy"):
        assert float(metrics.tally.scores[score][0]) >= 6


@pytest.mark.parametrize("name", INLINE)
def test_inline_models_learn_a_batch(name):
    """From chance over 264 tokens to less than a nat a token."""
    run = TinyRun(*QUICKLY, "optim.learning_rate=1e-2", name=name)
    found, _ = losses(run, 60)
    assert found[0] > 4.0
    assert found[-1] < 1.0
    frozen = set(run.plan.abstract.frozen)
    assert bool(frozen) == (name == "llava_1_5_7b") and all(path.startswith("vision/") for path in frozen)


@pytest.mark.parametrize("name", ["siglip_so400m", "llava_1_5_7b"])
def test_eight_devices_take_the_step_of_one(name):
    """The loss and the first moments of the optimiser, which are the gradients' tenth, within 1e-5."""
    mesh = ("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2")
    one, many = TinyRun(*QUICKLY, name=name), TinyRun(*QUICKLY, *mesh, devices=8, name=name)
    batch = one.read(0)
    state, metrics = one.step(one.first_state(), batch)
    shardings = jax.tree.map(lambda leaf: batch_sharding(many.mesh, leaf.shape), batch)
    spread_state, spread = jax.block_until_ready(many.step(many.first_state(), jax.device_put(batch, shardings)))
    np.testing.assert_allclose(float(spread.loss), float(metrics.loss), atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(metrics.tally), jax.tree.leaves(spread.tally), strict=True):
        np.testing.assert_allclose(np.asarray(theirs), np.asarray(ours), rtol=1e-4)
    moments, others = (_moments(s.optimizer) for s in (state, spread_state))
    for path, moment in moments.items():
        np.testing.assert_allclose(np.asarray(others[path]), np.asarray(moment), atol=1e-5, err_msg=path)
    assert max(float(jnp.abs(moment).max()) for moment in moments.values()) > 1e-3


def _moments(optimizer):
    return next(state.mu for state in optimizer if hasattr(state, "mu"))


def examples(count, n=2):
    """Examples of one or two pictures with answers, of unequal lengths."""
    random = np.random.default_rng(0)
    made = []
    for number in range(count):
        pictures = [Media((random.integers(0, 256, (32, 32, 3), np.uint8),)) for _ in range(1 + number % n)]
        asked = [Text("q" * (number + 1)), Text("answer"[: 2 + number], loss=True)]
        made.append(Example(str(number), (*pictures, *asked)))
    return made


@pytest.mark.parametrize("name", INLINE)
def test_packed_rows_equal_rows_of_one(name):
    """Hidden states, by example, and the loss; each example sees its own pictures and its own prefix."""
    run = TinyRun("data.images=4", "data.pack=True", name=name)
    layout, state = run.config.data.layout, run.first_state()
    made = examples(3)
    shape = BatchShape(rows=1, length=60, images=5, frames=1, image_size=32)
    read = [read_example(e, run.tokenizer, shape, next_image=False, layout=layout) for e in made]
    settings = {"tokenizer": run.tokenizer, "no_loss_before_first_image": False}
    packed = assemble([read], [0], [1.0], shape, **settings)
    alone = assemble([[one] for one in read], [0] * 3, [1.0] * 3, dataclasses.replace(shape, rows=3), **settings)
    apply = quick_jit(lambda params, batch: forward(run.model, nested(params), batch).hidden)
    together, apart = apply(state.all_params(), packed), apply(state.all_params(), alone)
    start = 0
    for row, one in enumerate(read):
        length = len(one.text.tokens)
        np.testing.assert_allclose(together[0, start : start + length], apart[row, :length], atol=2e-5)
        start += length
    assert float(jnp.abs(apart[0, :5] - apart[1, :5]).max()) > 1e-3  # pictures make a difference
    weights = [position_weights(batch, (1.0,)) for batch in (packed, alone)]
    np.testing.assert_allclose(float(weights[0].sum()), float(weights[1].sum()), rtol=1e-6)


def test_where_features_stand_and_what_is_given():
    """The grids of `places_of_features` and `prefix_of`."""
    there = jnp.array([[0, 1, 1, 0, 0, 1, 1, 0, 0]], bool)
    index = jnp.array([[0, 1, 1, 1, 1, 3, 3, 3, 0]], jnp.int32)
    assert places_of_features(there, index, 2).tolist() == [[0, 1, 2, 0, 0, 5, 6, 0, 0]]
    side_by_side = jnp.array([[1, 1, 1, 1]], bool), jnp.array([[1, 1, 2, 2]], jnp.int32)
    assert places_of_features(*side_by_side, 2).tolist() == [[1, 2, 3, 4]]
    cut = jnp.array([[1, 1, 0, 1, 1]], bool), jnp.array([[1, 2, 2, 3, 3]], jnp.int32)
    assert places_of_features(*cut, 2).tolist() == [[1, 3, 0, 5, 6]]

    run = TinyRun(name="paligemma_3b")
    batch = run.read(0)
    row = {
        "segment_ids": [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0],
        "positions": [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 0],
        "loss_weights": [0.0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0],
    }
    drawn = batch.replace(**{name: jnp.asarray([values]) for name, values in row.items()})
    assert prefix_of(drawn).astype(int).tolist() == [[1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0]]


def test_the_prompt_of_paligemma_stands_after_the_pictures():
    run = TinyRun(name="paligemma_3b")
    special, batch = run.tokenizer.special, run.read(0)
    assert batch.tokens[0, :5].tolist() == [special["image"]] * 4 + [special["bos"]]
    prefix = prefix_of(batch)
    asked = len("which?")
    assert prefix[0, : 5 + asked].all() and not prefix[0, 5 + asked]


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("clip_l14", "accumulate_steps=2", "compares the rows of the whole batch.*set accumulate_steps to 1"),
        ("clip_l14", "data.pack=True", "rows of one picture and one text: set data.pack to False"),
        ("clip_l14", "objective={'kind': 'language'}", "does not fit the family 'two_tower': set it to softmax_contr"),
        (
            "llava_1_5_7b",
            "objective={'kind': 'sigmoid_contrastive'}",
            "does not fit the family 'inline': set it to lang",
        ),
        (
            "llava_1_5_7b",
            "objective={'kind': 'sigmoid'}",
            "objective.kind 'sigmoid' is not one; did you mean sigmoid_c",
        ),
        ("llava_1_5_7b", "data.layout.image_tokens=5", "image_tokens is 5, but a picture is 4 tokens"),
        ("paligemma_3b", "data.image_size=48", "data.image_size must be 32, that of the model's vision encoder"),
        ("flamingo_digits", "data.layout.image_tokens=0", "image_tokens is 0, but a picture is 1 tokens"),
    ],
)
def test_settings_that_contradict(name, override, message):
    with pytest.raises(ConfigError, match=message):
        tiny_config(override, name=name)


def test_an_image_token_that_the_tokenizer_does_not_write():
    with pytest.raises(ConfigError, match="image_token is 7 but the tokenizer writes pictures as token 3"):
        TinyRun("model.config.image_token=7", name="llava_1_5_7b")


def test_flops_count_both_towers_and_the_pairs():
    """Twice the batch costs twice as much, but for the comparison of all pairs, which costs four times as much."""
    runs = [TinyRun(f"batch_size={size}", name="clip_l14") for size in (8, 16)]
    small, large = (count_flops(run.loss(blank=False), run.plan.abstract, run.batch).total for run in runs)
    rows, width = 8, 16
    pairs = 2 * 2 * rows * rows * width
    assert large - 2 * small == 2 * pairs
