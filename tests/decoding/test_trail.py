"""Penalties of what a row has had: those of transformers, on random scores and rows, padding left out."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.decoding.sampling import Sampling, make_draw
from mmjax.decoding.trail import follow, open_trail, penalize, withhold_ends

VOCABULARY, WIDTH = 12, 9
RANDOM = np.random.default_rng(0)
SCORES = RANDOM.normal(size=(5, VOCABULARY)).astype(np.float32) * 3
# Tokens beyond the vocabulary are images, which nobody writes.
TOKENS = RANDOM.integers(1, VOCABULARY + 2, (5, WIDTH)).astype(np.int32)
LENGTHS = np.array([9, 5, 1, 7, 8])
PADDED = np.where(np.arange(WIDTH) < WIDTH - LENGTHS[:, None], 0, TOKENS)  # on the left
MORE = RANDOM.integers(1, VOCABULARY, (4, 5)).astype(np.int32)


def trail_of(draw, more):
    trail = open_trail(jnp.asarray(PADDED), jnp.asarray(PADDED > 0), draw, vocabulary=VOCABULARY, spare=len(MORE))
    for token in MORE[:more]:
        trail = follow(trail, jnp.asarray(token), jnp.ones(5, bool))
    return trail


@pytest.mark.parametrize("more", [0, 4])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("penalty", [1.0, 1.7, 0.6])
def test_penalties_equal_those_of_transformers(penalty, size, more, torch):
    from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

    draw = make_draw(Sampling(repetition_penalty=penalty, no_repeat_ngram=size), 5)
    found = penalize(jnp.asarray(SCORES), trail_of(draw, more), draw)
    for row, length in enumerate(LENGTHS):
        tokens = torch.from_numpy(np.concatenate([PADDED[row, WIDTH - length :], MORE[:more, row]])[None].astype(int))
        expected = RepetitionPenaltyLogitsProcessor(penalty)(tokens, torch.from_numpy(SCORES[row : row + 1]))
        expected = NoRepeatNGramLogitsProcessor(size)(tokens, expected)
        np.testing.assert_allclose(found[row], expected[0].numpy(), rtol=2e-7)  # a division rounds either way


def test_each_row_has_its_own_penalties_and_rows_that_have_ended_stay():
    draw = make_draw(Sampling(repetition_penalty=2.0, no_repeat_ngram=2), 5)
    draw = draw.replace(no_repeat_ngram=np.array([0, 1, 2, 3, 0], np.int32))
    found = penalize(jnp.asarray(SCORES), trail_of(draw, 4), draw)
    for row, size in enumerate((0, 1, 2, 3, 0)):
        alone = make_draw(Sampling(repetition_penalty=2.0, no_repeat_ngram=size), 5)
        np.testing.assert_array_equal(found[row], penalize(jnp.asarray(SCORES), trail_of(alone, 4), alone)[row])
    before = trail_of(draw, 4)
    after = follow(before, jnp.asarray(MORE[0]), jnp.arange(5) != 3)
    assert np.array_equal(after.tokens[3], before.tokens[3]) and np.array_equal(after.seen[3], before.seen[3])
    assert (np.asarray(after.length - before.length) == [1, 1, 1, 0, 1]).all()


def test_ends_come_late():
    ends = jnp.arange(VOCABULARY) == 4
    found = withhold_ends(jnp.asarray(SCORES), ends, jnp.arange(5), jnp.full(5, 2))
    assert np.isinf(found[:2, 4]).all() and np.isinf(found).sum() == 2
