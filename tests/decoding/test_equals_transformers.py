"""Greedy decoding, sampling with a fixed key, and beam search: the tokens and scores of transformers."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.decoding.sampling import Sampling, make_draw

pytest.importorskip("torch", reason="the reference implementations need torch, which this Python does not have")
from tests.decoding.searched_models import make_pair
from tests.parity.reference_models import torch

pytestmark = pytest.mark.usefixtures("quick_programs")

# Each with a way to search of its own; the decoder goes through all of them below.
FAMILIES = {
    "llama": {"early_stopping": False, "length_penalty": 1.0},
    "idefics": {"early_stopping": True, "length_penalty": 0.4},
    "open_flamingo": {"early_stopping": "never", "length_penalty": 2.0},
    "llava": {"early_stopping": "never", "length_penalty": -0.5},
    "paligemma": {"early_stopping": False, "length_penalty": 2.0},
    "blip_2": {"early_stopping": True, "length_penalty": 1.0},
}
PENALTIES = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "pad_token_id": 0}
NEW = 9


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def pair(family, tmp_path_factory, quick_programs):
    return make_pair(family, tmp_path_factory.mktemp("models") / family)


@pytest.fixture(scope="module")
def ends(pair):
    """Tokens that two of the rows write, the first of them early."""
    free = pair.theirs(max_new_tokens=NEW, do_sample=False, eos_token_id=None, **PENALTIES).numpy()[:, -NEW:]
    return [int(free[0, 2]), int(free[1, 5])]


def check(pair, **settings):
    """Ours and theirs are the same; returns ours."""
    theirs = pair.theirs(**settings, return_dict_in_generate=True, output_scores=True)
    ours = pair.ours(**settings)
    np.testing.assert_array_equal(ours.sequences, theirs.sequences.numpy())
    if ours.scores is not None:
        np.testing.assert_allclose(ours.scores, theirs.sequences_scores.numpy(), rtol=2e-5)
    return ours


def test_greedy(pair, ends):
    settings = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": ends, **PENALTIES}
    ours = check(pair, **settings)
    assert ours.lengths.min() < NEW  # a row has ended within
    later = check(pair, **settings, min_new_tokens=7)
    assert later.lengths.min() >= 7


def test_sampling(pair, ends, monkeypatch):
    """With the draws of our keys in the place of torch's."""
    samples, rows = 2, len(pair.opening.tokens)
    settings = {
        **{"max_new_tokens": NEW, "do_sample": True, "num_return_sequences": samples, "eos_token_id": ends},
        **{"temperature": 1.4, "top_k": 30, "top_p": 0.9, "min_p": 0.03},
        **PENALTIES,
    }
    written = []
    for seed in (3, 4):
        keys, step = make_draw(Sampling(1.0, seed=seed), rows, samples).keys, iter(range(NEW))

        def drawn(probabilities, num_samples, keys=keys, step=step):
            assert num_samples == 1
            now = jax.vmap(jax.random.fold_in, (0, None))(keys, next(step))
            with np.errstate(divide="ignore"):
                scores = np.log(probabilities.numpy())
            return torch.from_numpy(np.array(jax.vmap(jax.random.categorical)(now, scores)))[:, None].long()

        monkeypatch.setattr(torch, "multinomial", drawn)
        theirs = pair.theirs(**settings).numpy()
        ours = pair.ours(**settings, seed=seed)
        np.testing.assert_array_equal(ours.sequences, theirs)
        written.append(ours.sequences[:, ours.start :].tolist())
    assert written[0] != written[1] and written[0][0] != written[0][1]


def test_beams(family, pair, ends):
    settings = {"max_new_tokens": NEW, "num_beams": 3, "num_return_sequences": 2, "do_sample": False, **PENALTIES}
    ours = check(pair, **settings, eos_token_id=ends, **FAMILIES[family])
    if FAMILIES[family]["length_penalty"] <= 1.0:  # above it the longest win
        assert len(set(ours.lengths.tolist())) > 1


@pytest.fixture(scope="module")
def decoder(tmp_path_factory, quick_programs):
    return make_pair("llama", tmp_path_factory.mktemp("models") / "llama", seed=5)


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
def test_every_way_to_stop_a_search(decoder, early_stopping):
    free = decoder.theirs(max_new_tokens=6, do_sample=False, eos_token_id=None).numpy()[:, -6:]
    lengths = set()
    for ends in (None, int(free[0, 0]), free[:, 1:4:2].reshape(-1).tolist()):
        for length_penalty in (-1.0, 0.0, 1.0, 3.0):
            settings = {"num_beams": 4, "num_return_sequences": 4, "do_sample": False, "eos_token_id": ends}
            settings |= {"early_stopping": early_stopping, "length_penalty": length_penalty}
            lengths.update(check(decoder, **settings, max_new_tokens=12, pad_token_id=5).lengths.tolist())
    assert len(lengths) > 3


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default:UserWarning")
@pytest.mark.filterwarnings("ignore:Unfeasible length constraints:UserWarning")
def test_lengths_as_the_reference_counts_them(decoder):
    prompt = decoder.opening.tokens.shape[1]
    for settings in ({"max_length": prompt + 4}, {}, {"max_new_tokens": 3, "min_length": prompt + 9}):
        check(decoder, do_sample=False, eos_token_id=7, pad_token_id=0, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penalty_alpha": 0.5}, r"nothing of \{'penalty_alpha': 0.5\} here"),
        ({"typical_p": 0.5, "guidance_scale": 1.0}, r"nothing of \{'typical_p': 0.5\} here"),
        ({"num_beams": 2, "do_sample": True}, "set do_sample or num_beams, not both"),
        ({"num_beams": 2, "num_return_sequences": 3}, "must be at most num_beams"),
        ({"num_return_sequences": 3}, "greedy decoding has one result"),
        ({"num_beams": 0}, "num_beams and num_return_sequences must be 1 or more"),
        ({"num_beams": 2, "early_stopping": "soon"}, 'early_stopping must be True, False or "never"'),
        ({"do_sample": True, "temperature": 0.0}, "temperature must be above 0 where do_sample is set"),
        ({"max_new_tokens": 0}, "at least one token, not 0"),
    ],
)
def test_settings_that_cannot_be(decoder, settings, message):
    with pytest.raises(InputError, match=message):
        decoder.ours(**{"max_new_tokens": 4, **settings})
