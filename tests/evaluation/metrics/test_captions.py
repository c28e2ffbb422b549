"""BLEU, ROUGE-L and CIDEr by hand, and against the official scorer."""

import math

import pytest

from mmjax.core.errors import InputError
from mmjax.evaluation.metrics import captions, java, ptb
from tests.evaluation.metrics.random_captions import caption_sets


def test_bleu_clips_a_word_that_is_repeated():
    """The example of Papineni et al.: of seven "the", two are in a reference."""
    references = [["the cat is on the mat", "there is a cat on the mat"]]
    found = captions.bleu(["the the the the the the the"], references)
    assert found[0] == pytest.approx(2 / 7) and found[1] < 1e-6


def test_bleu_of_the_corpus_by_hand():
    candidates, references = ["a red bus", "two dogs"], [["a red bus on a street", "red bus"], ["two dogs run", "dogs"]]
    # Lengths 3 and 2; the closest references have 2 and 1 words (the shorter where two are as close).
    precisions = (5 / 5, 3 / 3, 1 / 1)
    found = captions.bleu(candidates, references)
    assert found[:3] == pytest.approx(precisions)
    short = captions.bleu(["red bus"], [["a red bus on a street"]])
    assert short[0] == pytest.approx(math.exp(1 - 6 / 2)) and short[1] == pytest.approx(short[0])


def test_rouge_l_by_hand():
    """ "police kill the gunman" of Lin: three of four words in order."""
    reference = "police killed the gunman"
    found = captions.rouge_l(["police kill the gunman", "the gunman kill police"], [[reference], [reference]])
    assert found == pytest.approx((3 / 4 + 2 / 4) / 2)
    # The best precision and the best recall may be of different references.
    both = captions.rouge_l(["a b"], [["a b c d", "b"]])
    assert both == pytest.approx((1 + 1.44) * 1 * 1 / (1 + 1.44))


def test_cider_by_hand():
    candidates, references = ["red bus", "two dogs"], [["red bus", "a red car"], ["two dogs", "dogs"]]
    # Each n-gram is of one image, so that all weights are log 2 times the count; cosines for n = 1 and 2.
    root = math.sqrt
    bus, dogs = (1 / root(6), 1 / 2 * 0), (1 / root(2), 0)
    plain = 10 / 4 * ((2 + sum(bus)) / 2 + (2 + sum(dogs)) / 2) / 2
    assert captions.cider(candidates, references) == pytest.approx(plain)
    penalty = math.exp(-1 / 72)  # a bigram more or less
    official = 10 / 4 * ((2 + penalty * sum(bus)) / 2 + (2 + penalty * sum(dogs)) / 2) / 2
    assert captions.cider_d(candidates, references) == pytest.approx(official)


def test_cider_d_clips_what_is_repeated_and_cider_does_not():
    references = [["red bus"], ["two dogs"]]
    repeated = ["bus bus bus", "two dogs"]
    assert captions.cider_d(repeated, references) < captions.cider(repeated, references)


@pytest.mark.parametrize("metric", [captions.bleu, captions.rouge_l, captions.cider, captions.cider_d])
def test_what_cannot_be_scored(metric):
    with pytest.raises(InputError, match="no captions"):
        metric([], [])
    with pytest.raises(InputError, match="2 captions cannot be scored against references of 1"):
        metric(["a", "b"], [["a"]])
    with pytest.raises(InputError, match="1 of 2 captions have no reference"):
        metric(["a", "b"], [["a"], []])


def official_scores(candidates, references):
    pytest.importorskip("pycocoevalcap.bleu.bleu")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    wanted, given = dict(enumerate(references)), {number: [text] for number, text in enumerate(candidates)}
    bleus = Bleu(4).compute_score(wanted, given, verbose=0)[0]
    return [*bleus, Rouge().compute_score(wanted, given)[0], Cider().compute_score(wanted, given)[0]]


def tokenized_sets(count, seed):
    candidates, references = caption_sets(count, seed)
    return ptb.tokenize(candidates), [ptb.tokenize(texts) for texts in references]


@pytest.mark.parametrize("count, seed", [(1, 0), (100, 1), pytest.param(1000, 2, marks=pytest.mark.slow)])
def test_scores_are_those_of_the_official_scorer(count, seed):
    candidates, references = tokenized_sets(count, seed)
    found = [
        *captions.bleu(candidates, references),
        captions.rouge_l(candidates, references),
        captions.cider_d(candidates, references),
    ]
    assert found == pytest.approx(official_scores(candidates, references), rel=1e-11, abs=1e-12)


@pytest.mark.slow
def test_meteor_is_that_of_the_official_scorer():
    pytest.importorskip("pycocoevalcap.meteor.meteor")
    from pycocoevalcap.meteor.meteor import Meteor

    candidates, references = tokenized_sets(100, 3)
    try:
        found = java.meteor(candidates, references)
    except java.Unavailable as error:
        pytest.skip(str(error))
    program = Meteor()
    program.meteor_p.stderr.close()
    given = {number: [text] for number, text in enumerate(candidates)}
    assert found == program.compute_score(dict(enumerate(references)), given)[0]
    program.meteor_p.stdout.close()
