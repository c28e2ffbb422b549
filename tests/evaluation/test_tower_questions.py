"""Benchmarks of two towers: rows of cosines to answers, official scores, and pictures that cannot be read."""

import dataclasses
import json
import re

import numpy as np
import pytest

from mmjax.evaluation.benchmark import Template
from mmjax.evaluation.harness import evaluate
from mmjax.evaluation.predictions import MemoryStore
from mmjax.evaluation.settings import Options
from mmjax.evaluation.tower_questions import TowerQuestions
from tests.evaluation.made import RANKED, Guesser, write_files

NOISE = np.random.default_rng(0).normal(size=(10, 64)).astype(np.float32)


class Towers(Guesser):
    """Vectors of texts are noise by the digit in them; those of pictures lie near that of `digits`, in order."""

    def __init__(self, digits):
        super().__init__()
        self.digits = digits

    def embed_texts(self, texts, *, progress):
        return np.stack([NOISE[int(re.search(r"\d", text)[0])] for text in texts])

    def embed_pictures(self, pictures, *, progress):
        return np.stack([NOISE[digit] + 0.1 * NOISE[(digit + 1) % 10] for digit in self.digits])


def ask(benchmark, folder, model, tmp_path, **settings):
    options, store = Options(**settings), MemoryStore()
    task = TowerQuestions(benchmark, folder, options, model=model, encoder=lambda: "towers", cache=tmp_path / "cache")
    found = evaluate(model, [task], options, store=store, results=tmp_path / "results", progress=False)
    return found, list(store.rows())


def test_classes_are_the_nearest_names(tmp_path):
    zero_shot = dataclasses.replace(
        RANKED, method="classes", templates=(Template("{image}", "a {answer}."), Template("{image}", "the {answer}!"))
    )
    data = write_files(tmp_path / "data", test=8)
    right = [int(record["digit"]) for record in json.loads((data / "test.json").read_text())]
    model = Towers([right[0] + 1 if right[0] < 9 else 0, *right[1:]])
    found, rows = ask(zero_shot, data, model, tmp_path, shots=(0, 4))
    [row] = found.rows  # of shots and seeds there are none
    assert row["score"] == 7 / 8 and row["official"] == {"accuracy": 87.5} and (row["seeds"], row["shots"]) == (1, 0)
    assert [one["prediction"] for one in rows[1:]] == [str(digit) for digit in right[1:]] and rows[0]["score"] == 0
    told = rows[3]["candidates"]
    own, other = NOISE[right[3]], NOISE[(right[3] + 1) % 10]
    picture = own + 0.1 * other
    cosine = float(picture @ own / np.linalg.norm(picture) / np.linalg.norm(own))
    assert told[str(right[3])] == pytest.approx(cosine, abs=1e-5) and max(told, key=told.get) == str(right[3])
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_broken_picture_is_like_no_text(tmp_path):
    data = write_files(tmp_path / "data", test=8)
    (data / "test-2.png").write_bytes(b"no picture")
    right = [int(record["digit"]) for record in json.loads((data / "test.json").read_text())]
    del right[2]
    found, rows = ask(dataclasses.replace(RANKED, method="classes"), data, Towers(right), tmp_path)
    assert [one["score"] for one in rows] == [1, 1, 0, 1, 1, 1, 1, 1]
    assert [(one["id"], one["kind"]) for one in found.bad] == [("test2", "not_an_image")]
    assert found.rows[0]["official"] == {"accuracy": 87.5}
