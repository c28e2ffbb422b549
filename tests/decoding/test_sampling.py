"""Drawing tokens: the filters of transformers, frequencies, and repeatability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.decoding.sampling import Sampling, draw_tokens, keep_probable, make_draw

SCORES = np.random.default_rng(0).normal(size=(7, 50)).astype(np.float32) * 3


@pytest.mark.parametrize("top_k", [0, 1, 3, 50, 80])
@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 1.0])
def test_filters_equal_those_of_transformers(top_k, top_p):
    torch = pytest.importorskip("torch", reason="the filters of transformers need torch")
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    kept = keep_probable(jnp.asarray(SCORES), jnp.int32(top_k), jnp.float32(top_p))
    expected = torch.from_numpy(SCORES)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    np.testing.assert_array_equal(kept, expected.numpy())


def test_what_may_not_be_written_is_not_kept():
    scores = jnp.asarray([[-jnp.inf, 2.0, -jnp.inf, 1.0]])
    kept = keep_probable(scores, jnp.int32(3), jnp.float32(1.0))
    np.testing.assert_array_equal(kept, scores)


def test_greedy_takes_the_highest():
    draw = make_draw(Sampling(top_k=2, top_p=0.1, seed=3), len(SCORES))
    np.testing.assert_array_equal(draw_tokens(jnp.asarray(SCORES), draw, jnp.int32(0)), SCORES.argmax(-1))


def test_frequencies_follow_the_temperature():
    scores = jnp.asarray([[0.0, 1.0, 2.0, -jnp.inf]])
    draw = make_draw(Sampling(temperature=0.5, seed=1), 1)
    steps = jnp.arange(20_000, dtype=jnp.int32)
    drawn = np.asarray(jax.jit(jax.vmap(lambda step: draw_tokens(scores, draw, step)))(steps)).ravel()
    expected = np.asarray(jax.nn.softmax(scores[0] / 0.5))
    assert np.abs(np.bincount(drawn, minlength=4) / len(drawn) - expected).max() < 0.015


def test_a_row_draws_alone():
    same = jnp.broadcast_to(jnp.asarray(SCORES[:1]), SCORES.shape)
    few = draw_tokens(same[:3], make_draw(Sampling(1.0, seed=5), 3), jnp.int32(2))
    many = draw_tokens(same, make_draw(Sampling(1.0, seed=5), len(SCORES)), jnp.int32(2))
    np.testing.assert_array_equal(many[:3], few)
    assert len(set(np.asarray(many).tolist())) > 1  # rows and seeds differ
    other = draw_tokens(same, make_draw(Sampling(1.0, seed=6), len(SCORES)), jnp.int32(2))
    assert (np.asarray(other) != np.asarray(many)).any()


@pytest.mark.parametrize(
    "settings, name",
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
    ],
)
def test_settings_that_cannot_be(settings, name):
    with pytest.raises(InputError, match=name):
        Sampling(**settings)
