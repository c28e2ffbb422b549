"""Similarities of two towers and what is read off them."""

import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.evaluation import towers
from mmjax.evaluation.benchmark import Item, Template
from mmjax.evaluation.metrics import rankings

ITEMS = [Item(f"{number}", (), {}, (f"text {number}a", f"text {number}b")) for number in range(3)]


def test_similarities_are_cosines_whatever_the_lengths():
    rng = np.random.default_rng(0)
    pictures, texts = rng.normal(size=(2500, 8)), rng.normal(size=(7, 8))
    scores = towers.retrieval_scores(pictures * 3, texts * 5)
    expected = (pictures @ texts.T) / np.linalg.norm(pictures, axis=1)[:, None] / np.linalg.norm(texts, axis=1)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_a_class_is_the_mean_of_the_unit_vectors_of_its_forms():
    texts = np.array([[[10.0, 0], [0, 1]], [[0, 1], [0, 3]]])  # two forms of two classes
    scores = towers.class_scores(np.array([[1.0, 0], [0, 2]]), texts)
    np.testing.assert_allclose(scores, [[2**-0.5, 0], [2**-0.5, 1]], atol=1e-6)


def test_retrieval_from_vectors_to_recall():
    assert towers.caption_texts(ITEMS, Template("{image}", "{answer}")) == [
        *("text 0a", "text 0b", "text 1a", "text 1b", "text 2a", "text 2b"),
    ]
    vectors = np.eye(3)
    texts = np.repeat(vectors, 2, axis=0)
    texts[4:] = vectors[1]  # those of the last picture look like the second one
    scores = towers.retrieval_scores(vectors, texts)
    answers = towers.answers_of(ITEMS, scores, towers.caption_texts(ITEMS, Template("{image}", "{answer}")))
    assert [one.answer for one in answers] == ["text 0a", "text 1a", "text 0a"]
    found = rankings.retrieval_recall(scores, np.repeat(np.arange(3), 2), 1)
    assert found == pytest.approx((1 / 3, 4 / 6))  # the second picture is as near to four texts: a tie is no find


def test_texts_of_classes_are_written_in_every_form():
    items = [Item(f"{number}", (), {}, ("cat",), ("cat", "dog")) for number in range(2)]
    forms = [Template("{image}", "a photo of a {answer}."), Template("{image}", " the {answer}")]
    assert towers.class_texts(items, forms) == [["a photo of a cat.", "a photo of a dog."], ["the cat", "the dog"]]
    with pytest.raises(InputError, match="same classes"):
        towers.class_texts([*items, Item("2", (), {}, ("cat",), ("cat",))], forms)


def test_vectors_that_cannot_be_compared_are_refused():
    with pytest.raises(InputError, match="1 of 2 vectors of pictures are zero"):
        towers.retrieval_scores(np.array([[1.0, 0], [0, 0]]), np.eye(2))
    with pytest.raises(InputError, match="have 2 numbers, those of texts 3"):
        towers.retrieval_scores(np.eye(2), np.eye(3))
    with pytest.raises(InputError, match=r"\(2, 2\) are not those of 3 pictures"):
        towers.answers_of(ITEMS, np.eye(2), ["a", "b"])
