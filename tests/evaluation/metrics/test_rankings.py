"""Rankings against scikit-learn, against loops, and by hand."""

import numpy as np
import pytest
import sklearn.metrics

from mmjax.core.errors import InputError
from mmjax.evaluation.metrics import rankings

RANDOM = np.random.default_rng(0)


def recall_by_sorting(similarity, image_of_text, k):
    images = [any(image_of_text[t] == i for t in np.argsort(-row)[:k]) for i, row in enumerate(similarity)]
    texts = [image_of_text[t] in np.argsort(-column)[:k] for t, column in enumerate(similarity.T)]
    return np.mean(images), np.mean(texts)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_is_that_of_sorting(k):
    image_of_text = RANDOM.permutation(np.repeat(np.arange(20), 5))
    similarity = RANDOM.normal(size=(20, 100)) + 1.5 * (image_of_text == np.arange(20)[:, None])
    assert rankings.retrieval_recall(similarity, image_of_text, k) == recall_by_sorting(similarity, image_of_text, k)


def test_recall_by_hand_and_of_equal_numbers():
    similarity = np.array([[0.9, 0.1, 0.2], [0.8, 0.7, 0.3]])
    assert rankings.retrieval_recall(similarity, np.array([0, 1, 0]), 1) == (0.5, 2 / 3)
    assert rankings.retrieval_recall(np.zeros((3, 3)), np.arange(3), 1) == (0, 0)
    assert rankings.retrieval_recall(np.zeros((3, 3)), np.arange(3), 3) == (1, 1)


@pytest.mark.parametrize(
    ("similarity", "image_of_text", "message"),
    [
        (np.full((2, 2), np.nan), np.arange(2), "4 of 4 similarities are not finite"),
        (np.eye(2), np.array([0, 0]), "each image (0 to 1) a text"),
        (np.eye(2), np.array([0, 2]), "each of the 2 texts needs the number of its image"),
        (np.eye(2), np.array([0]), "each of the 2 texts needs"),
    ],
)
def test_retrieval_that_cannot_be_scored(similarity, image_of_text, message):
    with pytest.raises(InputError) as error:
        rankings.retrieval_recall(similarity, image_of_text, 1)
    assert message in str(error.value)


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_is_that_of_scikit_learn(k):
    scores, labels = RANDOM.normal(size=(50, 12)), RANDOM.permutation(np.arange(50) % 12)
    expected = sklearn.metrics.top_k_accuracy_score(labels, scores, k=k)
    assert rankings.top_k_accuracy(scores, labels, k) == pytest.approx(expected)
    assert rankings.top_k_accuracy(np.zeros((4, 3)), np.arange(4) % 3, 1) == 0
    with pytest.raises(InputError, match="each from 0 to 11"):
        rankings.top_k_accuracy(scores, labels + 1, k)


def test_roc_auc_by_pairs():
    labels = RANDOM.permutation(np.arange(40) % 2)
    scores = RANDOM.normal(size=40).round(1) + labels
    above = (scores[labels == 1][:, None] > scores[labels == 0]).mean()
    equal = (scores[labels == 1][:, None] == scores[labels == 0]).mean()
    assert rankings.roc_auc(scores, labels) == pytest.approx(above + equal / 2)
    with pytest.raises(InputError, match="labels of both kinds"):
        rankings.roc_auc(scores, np.zeros(40, int))


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        ("yes", True),
        ("Yes, there is a dog.", True),
        ("No, there is none", False),
        ("There is not one", False),
        ("There is. No doubt", True),  # the first sentence alone counts
        ("nothing", True),
        ("NO", True),
        ("no.", False),
    ],
)
def test_what_pope_takes_for_a_yes(answer, yes):
    assert rankings.says_yes(answer) is yes


def test_yes_no_is_that_of_scikit_learn():
    said, true = RANDOM.random(60) < 0.6, RANDOM.random(60) < 0.4
    found = rankings.yes_no(said.tolist(), true.tolist())
    precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(true, said, average="binary")
    expected = ((said == true).mean(), precision, recall, f1, said.mean())
    assert found == pytest.approx(expected)
    assert rankings.yes_no([False, False], [False, False]) == (1, None, None, None, 0)
    with pytest.raises(InputError, match="no answers"):
        rankings.yes_no([], [])


def test_calibration_error_by_hand():
    confidences, correct = np.array([0.95, 0.85, 0.55, 0.55, 1.0, 0.0]), np.array([1, 0, 1, 0, 1, 0])
    expected = (abs(2 - 1.95) + abs(0 - 0.85) + abs(1 - 1.1) + 0) / 6
    assert rankings.calibration_error(confidences, correct, bins=10) == pytest.approx(expected)
    sure = RANDOM.random(20000)
    assert rankings.calibration_error(sure, RANDOM.random(20000) < sure) < 0.02
    with pytest.raises(InputError, match="from 0 to 1"):
        rankings.calibration_error(np.array([1.2]), np.array([1]))
