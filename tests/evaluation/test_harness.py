"""The harness: what is asked under each control, and what becomes of the answers."""

import collections

import jax
import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.data.stream import DataConfig, SourceEntry
from mmjax.decoding.scoring import Continuations
from mmjax.evaluation import harness
from mmjax.evaluation.harness import PICTURED, evaluate
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


class Answerer:
    """Stands in for a model: its answers are `right` or not by turns of a pattern; keeps what it was asked."""

    def __init__(self, *pattern: bool):
        self.pattern = pattern
        self.prompts = []

    def __call__(self, model, params, tokenizer, prompts, continuations, *, mesh, on_scored):
        self.prompts += prompts
        return [self._answer(number, texts) for number, texts in enumerate(continuations)]

    def _answer(self, number, texts):
        right = self.pattern[number % len(self.pattern)]
        tokens = tuple(np.array(TOKENIZER.encode(text.text), np.int32) for text in texts)
        greedy = tuple(ids if right else ids + (np.arange(len(ids)) == 0) for ids in tokens)
        return Continuations(-np.arange(1.0, len(texts) + 1), tokens, greedy)


def ask(monkeypatch, answerer, names, **settings):
    monkeypatch.setattr(harness, "score_continuations", answerer)
    return evaluate(None, {}, TOKENIZER, [TASKS[name] for name in names], progress=False, **settings)


def test_rows_tell_the_share_of_right_answers(monkeypatch):
    result = ask(monkeypatch, Answerer(True, True, False, True), ["read_single"], queries=40, controls=())
    (row,) = result.rows
    assert (row["task"], row["shots"], row["selection"], row["images"]) == ("read_single", 0, "random", "shown")
    assert (row["score"], row["n"], row["seeds"]) == (0.75, 120, 3)
    assert 0 < row["low"] < 0.75 < row["high"] < 1
    counts = collections.Counter(prediction["answer"] for prediction in result.predictions)
    assert row["chance"] == round(max(counts.values()) / 120, 6)
    wrong = [prediction for prediction in result.predictions if not prediction["correct"]]
    assert len(wrong) == 30
    for prediction in wrong:
        assert prediction["prediction"] == chr(ord(prediction["answer"]) + 1) and prediction["candidates"] is None
    assert all(prediction["prediction"] == prediction["answer"] for prediction in result.predictions[:2])


def test_words_are_ranked(monkeypatch):
    result = ask(monkeypatch, Answerer(True), ["bind_5way"], shots=(1, 0), seeds=1, queries=50, controls=())
    assert [(row["shots"], row["chance"]) for row in result.rows] == [(0, 0.2), (1, 0.2)]
    for prediction in result.predictions:
        first, *_ = prediction["candidates"]
        assert prediction["prediction"] == first and prediction["correct"] == (first == prediction["answer"])
        assert prediction["candidates"][first] == -1.0
    assert result.rows[1]["score"] == np.mean([one["correct"] for one in result.predictions[50:]])


def test_settings_of_tasks(monkeypatch):
    def tried(**settings):
        rows = ask(monkeypatch, Answerer(True), ["read_single", "bind_2way"], seeds=1, queries=2, **settings).rows
        return [(row["task"][:4], row["shots"], row["images"]) for row in rows]

    own = [("bind", shots, "shown") for shots in (0, 1, 2, 4, 8)]
    read, blank = ("read", 0, "shown"), "blanked"
    assert tried() == [read, ("read", 0, blank), *own, ("bind", 4, blank)]
    assert tried(shots=(3, 1), controls=()) == [read, ("bind", 1, "shown"), ("bind", 3, "shown")]
    # One picture cannot be shuffled.
    assert tried(shots=(2,), controls=("shuffled",)) == [read, ("bind", 2, "shown"), ("bind", 2, "shuffled")]


def pictures(prompt):
    return [medium.load()[0] for medium in prompt.media]


def test_controls_change_the_pictures_alone(monkeypatch):
    answerer = Answerer(True)
    ask(monkeypatch, answerer, ["read_interleaved"], seeds=1, queries=20, controls=("blanked", "shuffled"))
    shown, blanked, shuffled = (answerer.prompts[start : start + 20] for start in (0, 20, 40))
    for one, two, three in zip(shown, blanked, shuffled, strict=True):
        assert str(one) == str(two) == str(three)
        assert not np.any(pictures(two)) and np.shape(pictures(two)) == np.shape(pictures(one))
        before, after = pictures(one), pictures(three)
        places = [next(i for i, old in enumerate(before) if old is new or np.array_equal(old, new)) for new in after]
        assert sorted(places) == [0, 1, 2, 3] and all(new != old for old, new in enumerate(places))


def test_predictions_hold_what_was_asked(monkeypatch):
    result = ask(monkeypatch, Answerer(False, True), ["bind_2way", "read_scene_sum"], shots=(2,), queries=6, seeds=2)
    bind = result.predictions[0]
    assert list(bind) == [
        "task",
        "shots",
        "seed",
        "images",
        "id",
        "prompt",
        "demonstrations",
        "image",
        "answer",
        "prediction",
        "correct",
        "candidates",
    ]
    said = [demonstration["text"] for demonstration in bind["demonstrations"]]
    assert bind["prompt"] == "".join(f"<image>{text}" for text in said) + "<image>this is a"
    assert len(said) == 4 and set(said) == {f"this is a {word}." for word in bind["candidates"]}
    assert {prediction["seed"] for prediction in result.predictions} == {0, 1}
    assert len({(one["id"], one["images"]) for one in result.predictions}) == len(result.predictions)


def test_a_few_predictions_keep_their_pictures(monkeypatch):
    result = ask(monkeypatch, Answerer(False, True), ["bind_2way", "read_scene_sum"], shots=(0, 1), queries=12, seeds=2)
    kept = collections.Counter()
    for prediction in result.predictions:
        drawn = [prediction["image"], *(one["image"] for one in prediction["demonstrations"])]
        assert len({image is None for image in drawn}) == 1
        if prediction["image"]:
            assert all(image.startswith("data:image/png;base64,") for image in drawn)
            kept[prediction["task"], prediction["shots"], prediction["images"], prediction["correct"]] += 1
    assert set(kept.values()) == {PICTURED} and {key[2] for key in kept} == {"shown"}
    assert len(kept) == 3 * 2  # settings x right or wrong


@pytest.mark.parametrize("settings", [{"seeds": 0}, {"shots": (-1,)}, {"queries": 0}])
def test_what_cannot_be_asked(monkeypatch, settings):
    with pytest.raises(InputError, match="evaluation needs"):
        ask(monkeypatch, Answerer(True), ["read_single"], **settings)


def test_a_model_is_scored_alike_whatever_else_is_asked_and_on_any_mesh():
    model = tiny_model(vocab_size=264)
    params = random_parameters(model)
    chosen = [TASKS[name] for name in ("read_interleaved", "read_scene_contains", "bind_2way")]
    settings = {"seeds": 2, "queries": 4, "shots": (1,), "progress": False}
    whole = evaluate(model, params, TOKENIZER, chosen, **settings)
    assert [row["n"] for row in whole.rows] == [8] * 6
    mesh = make_mesh(MeshConfig(data=4), jax.devices()[:4])
    part = evaluate(model, params, TOKENIZER, chosen[2:], mesh=mesh, **settings)
    assert part.rows == whole.rows[-2:]
    for one, other in zip(part.predictions, whole.predictions[-16:], strict=True):
        likelihoods = [list(prediction.pop("candidates").values()) for prediction in (one, other)]
        np.testing.assert_allclose(*likelihoods, atol=1e-3)
        assert one == other
