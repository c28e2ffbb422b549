"""The harness: what is asked under each control, and what becomes of the answers."""

import collections
import itertools
from typing import NamedTuple

import jax
import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.core.example import Media, Text
from mmjax.data.config import DataConfig, SourceEntry
from mmjax.data.scans import Scans, ScansConfig
from mmjax.evaluation.controls import controlled
from mmjax.evaluation.digit_questions import DigitQuestions
from mmjax.evaluation.harness import PICTURED, evaluate
from mmjax.evaluation.models.model import Rated
from mmjax.evaluation.models.run import RunModel
from mmjax.evaluation.predictions import MemoryStore
from mmjax.evaluation.question import Form, Part
from mmjax.evaluation.settings import Options
from mmjax.evaluation.tasks import digit_tasks
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.text.tokenizer import ByteTokenizer
from tests.decoding.tiny_models import SIDE, random_parameters, tiny_model

TASKS = digit_tasks(
    DataConfig(
        sources={
            "read": SourceEntry("digits_read"),
            "scene": SourceEntry("digits_scene", options={"kinds": ("contains", "sum")}),
            "bind": SourceEntry("digits_bind", options={"classes": (0, 1, 2, 3, 4, 5)}),
        },
        image_size=SIDE,
    )
)
TOKENIZER = ByteTokenizer()


class Result(NamedTuple):
    rows: list
    predictions: list


class Answerer:
    """Stands in for a model: its answers are `right` or not by turns of a pattern; keeps what it was asked."""

    name = "answerer"

    def __init__(self, *pattern: bool):
        self.pattern = pattern
        self.prompts = []

    def rate(self, prompts, continuations, *, progress):
        self.prompts += prompts
        return [self._answer(number, texts) for number, texts in enumerate(continuations)]

    def _answer(self, number, texts):
        right = self.pattern[number % len(self.pattern)]
        written = tuple(text.text if right else chr(ord(text.text.strip()[0]) + 1) for text in texts)
        return Rated(-np.arange(1.0, len(texts) + 1), tuple(len(text.text) for text in texts), written)


def no_vectors(pictures):
    raise AssertionError("nothing is picked by similarity")


def ask(model, names, *, embed=no_vectors, **settings):
    options, store = Options(**settings), MemoryStore()
    tasks = [DigitQuestions(TASKS[name], options, embed) for name in names]
    rows = evaluate(model, tasks, options, store=store, progress=False).rows
    return Result(rows, list(store.rows()))


def test_rows_tell_the_share_of_right_answers():
    result = ask(Answerer(True, True, False, True), ["read_single"], queries=40, controls=())
    (row,) = result.rows
    assert (row["task"], row["shots"], row["selection"], row["control"]) == ("read_single", 0, "random", "none")
    assert (row["score"], row["n"], row["seeds"]) == (0.75, 120, 3)
    assert 0 < row["low"] < 0.75 < row["high"] < 1
    counts = collections.Counter(prediction["answer"] for prediction in result.predictions)
    assert row["chance"] == round(max(counts.values()) / 120, 6)
    wrong = [prediction for prediction in result.predictions if not prediction["correct"]]
    assert len(wrong) == 30
    for prediction in wrong:
        assert prediction["prediction"] == chr(ord(prediction["answer"]) + 1) and prediction["candidates"] is None
    assert all(prediction["prediction"] == prediction["answer"] for prediction in result.predictions[:2])


def test_words_are_ranked():
    result = ask(Answerer(True), ["bind_5way"], shots=(1, 0), seeds=1, queries=50, controls=())
    assert [(row["shots"], row["chance"]) for row in result.rows] == [(0, 0.2), (1, 0.2)]
    for prediction in result.predictions:
        first, *_ = prediction["candidates"]
        assert prediction["prediction"] == first and prediction["correct"] == (first == prediction["answer"])
        assert prediction["candidates"][first] == -1.0
    assert result.rows[1]["score"] == np.mean([one["correct"] for one in result.predictions[50:]])


def test_settings_of_tasks():
    def tried(**settings):
        rows = ask(Answerer(True), ["read_single", "bind_2way"], seeds=1, queries=2, **settings).rows
        return [(row["task"][:4], row["shots"], row["control"]) for row in rows]

    own = [("bind", shots, "none") for shots in (0, 1, 2, 4, 8)]
    read, blank = ("read", 0, "none"), "blanked"
    assert tried() == [read, ("read", 0, blank), *own, ("bind", 4, blank)]
    assert tried(shots=(3, 1), controls=()) == [read, ("bind", 1, "none"), ("bind", 3, "none")]
    # One picture cannot be shuffled.
    assert tried(shots=(2,), controls=("shuffled",)) == [read, ("bind", 2, "none"), ("bind", 2, "shuffled")]


def pictures(prompt):
    return [medium.load()[0] for medium in prompt.media]


def test_controls_change_the_pictures_alone():
    answerer = Answerer(True)
    ask(answerer, ["read_interleaved"], seeds=1, queries=20, controls=("blanked", "shuffled"))
    shown, blanked, shuffled = (answerer.prompts[start : start + 20] for start in (0, 20, 40))
    for one, two, three in zip(shown, blanked, shuffled, strict=True):
        assert str(one) == str(two) == str(three)
        assert not np.any(pictures(two)) and np.shape(pictures(two)) == np.shape(pictures(one))
        before, after = pictures(one), pictures(three)
        places = [next(i for i, old in enumerate(before) if old is new or np.array_equal(old, new)) for new in after]
        assert sorted(places) == [0, 1, 2, 3] and places[-1] != 3


def test_predictions_hold_what_was_asked():
    result = ask(Answerer(False, True), ["bind_2way", "read_scene_sum"], shots=(2,), queries=6, seeds=2)
    bind = result.predictions[0]
    assert list(bind) == [
        "task",
        "shots",
        "selection",
        "control",
        "seed",
        "id",
        "prompt",
        "demonstrations",
        "image",
        "answer",
        "references",
        "text",
        "prediction",
        "score",
        "correct",
        "candidates",
    ]
    said = [demonstration["text"] for demonstration in bind["demonstrations"]]
    assert bind["prompt"] == "".join(f"<image>{text}" for text in said) + "<image>this is a"
    assert len(said) == 4 and set(said) == {f"this is a {word}." for word in bind["candidates"]}
    assert {prediction["seed"] for prediction in result.predictions} == {0, 1}
    assert len({(one["id"], one["control"]) for one in result.predictions}) == len(result.predictions)


def test_a_few_predictions_keep_their_pictures():
    result = ask(Answerer(False, True), ["bind_2way", "read_scene_sum"], shots=(0, 1), queries=12, seeds=2)
    kept = collections.Counter()
    for prediction in result.predictions:
        drawn = [prediction["image"], *(one["image"] for one in prediction["demonstrations"])]
        assert len({image is None for image in drawn}) == 1
        if prediction["image"]:
            assert all(image.startswith("data:image/png;base64,") for image in drawn)
            kept[prediction["task"], prediction["shots"], prediction["control"], prediction["correct"]] += 1
    assert set(kept.values()) == {PICTURED} and {key[2] for key in kept} == {"none"}
    assert len(kept) == 3 * 2  # settings x right or wrong


@pytest.mark.parametrize("settings", [{"seeds": 0}, {"shots": (-1,)}, {"queries": 0}])
def test_what_cannot_be_asked(settings):
    with pytest.raises(InputError, match="evaluation needs"):
        ask(Answerer(True), ["read_single"], **settings)


def answered(labels, places, query):
    """What a perfect reader of the demonstrations answers: a label that stands by pictures of the query's class."""
    of = {}
    for label, place in zip(labels, places, strict=True):
        of.setdefault(place, []).append(label)
    told = of.get(query, labels)
    return max(sorted(set(told)), key=told.count)


@pytest.mark.parametrize("control", ["shuffled", "relabelled"])
def test_a_perfect_reader_is_at_chance_under_controls(control):
    scans = Scans(ScansConfig(split="test"), SIDE)
    episodes = [TASKS["bind_2way"].episodes(4, seed, 300) for seed in range(3)]
    right = []
    for episode in itertools.chain(*episodes):
        turns = [*episode.demonstrations, episode.query]
        classes = [scans.labels[turn.media.frames[0].args[0]] for turn in turns]
        parts = [
            Part(str(place), (Media((one,)),), turn.answer, Text)
            for place, (one, turn) in enumerate(zip(classes, turns, strict=True))
        ]
        form = controlled(Form(tuple(parts[:-1]), parts[-1]), control, episode.id)
        shown = [part.media[0].frames[0] for part in form.shots]
        said = answered([part.answer for part in form.shots], shown, form.query.media[0].frames[0])
        right.append(said == episode.query.answer)
        assert sorted(part.answer for part in form.shots) == sorted(part.answer for part in parts[:-1])
    assert abs(np.mean(right) - 0.5) < 4 * 0.5 / np.sqrt(len(right))
    assert answered(["dax", "wug"], [3, 5], 5) == "wug"


def test_shots_are_picked_among_both_classes_at_random_or_by_similarity():
    def embed(pictures):  # by how much of each of the corners is bright
        vectors = np.stack(
            [
                medium.load()[0].reshape(2, SIDE // 2, 2, SIDE // 2, 3).mean(axis=(1, 3, 4)).ravel()
                for medium in pictures
            ]
        )
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    asked = {"seeds": 1, "queries": 20, "shots": (0, 2), "controls": ()}
    found = ask(Answerer(True), ["bind_2way"], selections=("balanced", "random", "rices"), embed=embed, **asked)
    assert [(row["selection"], row["shots"]) for row in found.rows] == [
        ("balanced", 0),
        ("balanced", 2),
        ("random", 2),
        ("rices", 2),
    ]
    of = {
        name: [one for one in found.predictions if one["selection"] == name and one["shots"]]
        for name in ("balanced", "random", "rices")
    }
    for own, picked, similar in zip(*of.values(), strict=True):
        assert own["id"] == picked["id"] == similar["id"] and own["answer"] == picked["answer"]
        assert len(own["demonstrations"]) == len(picked["demonstrations"]) == len(similar["demonstrations"]) == 4
    counts = {
        name: [sum(row["answer"] in one["text"] for one in row["demonstrations"]) for row in rows]
        for name, rows in of.items()
    }
    assert set(counts["balanced"]) == {2} and set(counts["random"]) > {2} and np.mean(counts["rices"]) > 2.5
    again = ask(Answerer(True), ["bind_2way"], selections=("rices",), embed=embed, **{**asked, "shots": (2,)})
    assert [one["prompt"] for one in again.predictions] == [one["prompt"] for one in of["rices"]]


def test_a_model_is_scored_alike_whatever_else_is_asked_and_on_any_mesh():
    model = tiny_model(vocab_size=264)
    params = random_parameters(model)
    chosen = ["read_interleaved", "read_scene_contains", "bind_2way"]
    settings = {"seeds": 2, "queries": 4, "shots": (1,)}
    whole = ask(RunModel(model, params, TOKENIZER), chosen, **settings)
    assert [row["n"] for row in whole.rows] == [8] * 6
    mesh = make_mesh(MeshConfig(data=4), jax.devices()[:4])
    part = ask(RunModel(model, params, TOKENIZER, mesh=mesh), chosen[2:], **settings)
    assert part.rows == whole.rows[-2:]
    for one, other in zip(part.predictions, whole.predictions[-16:], strict=True):
        likelihoods = [list(prediction.pop("candidates").values()) for prediction in (one, other)]
        np.testing.assert_allclose(*likelihoods, atol=1e-3)
        assert one == other
