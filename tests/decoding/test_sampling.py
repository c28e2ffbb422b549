"""Drawing tokens: the filters of transformers, frequencies, and repeatability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.decoding.sampling import Sampling, draw_tokens, keep_probable, make_draw

SCORES = np.random.default_rng(0).normal(size=(7, 50)).astype(np.float32) * 3


TIED = np.round(SCORES)  # many are equal


def kept(scores, top_k=0, top_p=1.0, min_p=0.0):
    def each(value, dtype):
        return jnp.full(len(scores), value, dtype)

    return keep_probable(
        jnp.asarray(scores), each(top_k, jnp.int32), each(top_p, jnp.float32), each(min_p, jnp.float32)
    )


@pytest.mark.parametrize("top_k", [0, 1, 3, 50, 80])
@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 0.02, 0.3, 1.0])
def test_filters_equal_those_of_transformers(top_k, top_p, min_p, torch):
    from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    expected = torch.from_numpy(SCORES)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    if min_p:
        expected = MinPLogitsWarper(min_p)(None, expected)
    np.testing.assert_array_equal(kept(SCORES, top_k, top_p, min_p), expected.numpy())


@pytest.mark.parametrize("top_k", [1, 3, 7])
def test_all_that_tie_with_the_last_are_kept(top_k, torch):
    from transformers import TopKLogitsWarper

    expected = TopKLogitsWarper(top_k)(None, torch.from_numpy(TIED)).numpy()
    assert (np.isfinite(expected).sum(1) > top_k).any()
    np.testing.assert_array_equal(kept(TIED, top_k), expected)


def test_each_row_has_its_own_filters():
    draws = [(3, 1.0, 0.0), (0, 0.5, 0.0), (0, 1.0, 0.1), (0, 1.0, 0.0)]
    together = keep_probable(jnp.asarray(SCORES[:4]), *(jnp.asarray(x) for x in zip(*draws, strict=True)))
    for row, settings in enumerate(draws):
        np.testing.assert_array_equal(together[row], kept(SCORES[row : row + 1], *settings)[0])


def test_what_may_not_be_written_is_not_kept():
    scores = jnp.asarray([[-jnp.inf, 2.0, -jnp.inf, 1.0]])
    np.testing.assert_array_equal(kept(scores, 3), scores)


def test_a_temperature_of_one_row_leaves_the_others_greedy():
    draw = make_draw(Sampling(2.0, seed=1), len(SCORES))
    draw = draw.replace(temperature=draw.temperature * (np.arange(len(SCORES)) == 2))
    best, drawn = (
        SCORES.argmax(-1),
        np.asarray([draw_tokens(jnp.asarray(SCORES), draw, jnp.int32(step)) for step in range(10)]),
    )
    others = np.arange(len(SCORES)) != 2
    assert (drawn == best)[:, others].all() and not (drawn == best)[:, 2].all()


def test_samples_of_a_prompt_differ_and_do_not_depend_on_how_many_there_are():
    same = jnp.broadcast_to(jnp.asarray(SCORES[:1]), (6, SCORES.shape[1]))
    draws = [make_draw(Sampling(2.0, seed=5), 6 // samples, samples) for samples in (2, 3)]
    two, three = (
        np.stack([np.asarray(draw_tokens(same, draw, jnp.int32(step))) for step in range(8)], 1) for draw in draws
    )
    np.testing.assert_array_equal(two.reshape(3, 2, 8)[:2], three.reshape(2, 3, 8)[:, :2])
    assert len({tuple(row) for row in three}) == 6


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
        ({"min_p": -0.1}, "min_p"),
        ({"min_p": 1.1}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram"),
        ({"min_tokens": -1}, "min_tokens"),
    ],
)
def test_settings_that_cannot_be(settings, name):
    with pytest.raises(InputError, match=name):
        Sampling(**settings)
