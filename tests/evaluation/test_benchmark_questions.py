"""Benchmarks asked by the harness: demonstrations, ensembles, broken pictures, official scores."""

import json

import numpy as np
import pytest

from mmjax.core.errors import DataError, InputError
from mmjax.core.example import Media, Text
from mmjax.decoding.prompt import Prompt
from mmjax.evaluation.benchmark import Item, Template
from mmjax.evaluation.benchmark_questions import BenchmarkQuestions
from mmjax.evaluation.harness import evaluate, plan_chunks
from mmjax.evaluation.predictions import MemoryStore
from mmjax.evaluation.settings import Options, Setting
from mmjax.evaluation.templates import answer_text, asked_segments
from mmjax.evaluation.worst import worst_predictions
from mmjax.reporting.evaluation_page import write_evaluation_page
from tests.evaluation.made import RANKED, WRITTEN, Guesser, write_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("data") / "digits")


def questions(benchmark, folder, options, model, cache=None, **further):
    def embed(pictures):
        return model.embed_pictures(pictures, progress=lambda count: None)

    further = {"embed": embed, "encoder": lambda: "guesser", "cache": cache, **further}
    return BenchmarkQuestions(benchmark, folder, options, **further)


def ask(folder, benchmark=WRITTEN, model=None, results=None, **settings):
    model, options, store = model or Guesser(), Options(**{"controls": (), "seeds": 2, **settings}), MemoryStore()
    task = questions(benchmark, folder, options, model)
    found = evaluate(model, [task], options, store=store, results=results, progress=False)
    return found, list(store.rows()), task


def test_demonstrations_stand_before_the_query_and_scores_are_official(folder, tmp_path):
    found, rows, _ = ask(folder, shots=(0, 2), results=tmp_path / "results")
    zero, two = found.rows
    assert (zero["shots"], zero["seeds"], zero["n"]) == (0, 1, 12)  # nothing is drawn at 0 shots
    assert (two["shots"], two["seeds"], two["n"], two["chance"]) == (2, 2, 24, 0.1)
    for row, own in ((zero, rows[:12]), (two, rows[12:])):
        assert row["score"] == pytest.approx(np.mean([one["score"] for one in own]))
        assert row["official"] == {"accuracy": pytest.approx(100 * row["score"])}
        assert row["low"] <= row["score"] <= row["high"]
    for row in rows[12:]:
        shown = row["demonstrations"]
        assert len({one["id"] for one in shown}) == 2 and all(one["id"].startswith("train") for one in shown)
        assert row["prompt"] == "".join(f"<image>{one['text']}" for one in shown) + "<image>which digit?"
        assert row["text"].startswith(" ") and row["prediction"] == row["text"].strip()
    given = json.loads((tmp_path / "results" / "made_vqa-2-random-none-1" / "results.json").read_text())
    assert given == [{"id": row["id"], "answer": row["prediction"]} for row in rows[24:]]


def test_demonstrations_depend_on_seed_and_item_alone(folder):
    def shown(**settings):
        _, rows, _ = ask(folder, **settings)
        return {(row["seed"], row["id"]): [one["id"] for one in row["demonstrations"]] for row in rows}

    whole, part = shown(shots=(4,)), shown(shots=(4,), queries=5)
    assert len(part) == 10 and all(whole[key] == ids for key, ids in part.items())
    fewer = shown(shots=(2,))
    assert all(whole[key][:2] == ids for key, ids in fewer.items())  # more shots begin as fewer do
    assert len({tuple(ids) for ids in whole.values()}) == 24


def test_balanced_demonstrations_are_of_different_classes_and_rices_of_similar_pictures(folder):
    _, rows, task = ask(folder, selections=("balanced", "rices"), shots=(3,))
    digits = {item.id: item.label for item in task._pool.items}
    balanced = [row for row in rows if row["selection"] == "balanced"]
    assert all(len({digits[one["id"]] for one in row["demonstrations"]}) == 3 for row in balanced)
    similar = [row for row in rows if row["selection"] == "rices"]
    assert len(similar) == 12  # one seed: nothing is drawn
    test, train = (
        [item.media[0].load()[0].ravel().astype(np.float64) - 30 for item in part]
        for part in (task.items, task._pool.items)
    )
    for row, picture in zip(similar, test, strict=True):
        cosines = [float(picture @ other / np.linalg.norm(picture) / np.linalg.norm(other)) for other in train]
        best = np.argsort(cosines)[-3:]
        assert [one["id"] for one in row["demonstrations"]] == [f"train{number}" for number in best]


def test_vectors_of_pictures_are_kept_by_content(folder, tmp_path):
    class Counting(Guesser):
        embedded = 0

        def embed_pictures(self, pictures, *, progress):
            self.embedded += len(pictures)
            return super().embed_pictures(pictures, progress=progress)

    model, options = Counting(), Options(selections=("rices",), shots=(1,))

    def vectors(where, **further):
        return questions(WRITTEN, where, options, model, cache=tmp_path / "cache", **further)._vectors()

    first = vectors(folder)
    moved = write_files(tmp_path / "moved")
    assert all(np.array_equal(*pair) for pair in zip(first, vectors(moved), strict=True)) and model.embedded == 36
    vectors(moved, encoder=lambda: "another")
    assert model.embedded == 72
    (moved / "test-0.png").write_bytes((moved / "test-1.png").read_bytes())
    assert not np.array_equal(first[1], vectors(moved)[1]) and model.embedded == 84


def test_zero_shots_may_have_the_text_of_two_demonstrations(folder):
    model = Guesser()
    _, rows, _ = ask(folder, model=model, zero_shot="text", shots=(0,))
    assert all(len(prompt.media) == 1 for prompt in model.prompts) and len(rows) == 24
    assert all(len(row["demonstrations"]) == 2 and row["prompt"].count("<image>") == 1 for row in rows)
    assert all(row["prompt"].endswith("<image>which digit?") for row in rows)


def test_an_ensemble_asks_in_all_forms(folder):
    class Told(Guesser):
        def write(self, prompts, **settings):
            return ["4" if str(prompt).endswith("A:") else "3" for prompt in prompts]

    _, rows, _ = ask(folder, templates="all", model=Told(), seeds=1)
    assert {row["prediction"] for row in rows} == {"3"}  # of two that are as frequent the first
    _, one, task = ask(folder, RANKED, seeds=1)
    _, both, _ = ask(folder, RANKED, seeds=1, templates="all")
    _, short, _ = ask(folder, RANKED, seeds=1, normalize=True)
    model = Guesser()
    for first, row, each, item in zip(one, both, short, task.items, strict=True):
        told = []
        for template in RANKED.templates:
            prompt, texts = Prompt(asked_segments(template, item)), [Text(f" {name}") for name in item.candidates]
            told.append(model.rate([prompt], [texts], progress=lambda count: None)[0].log_likelihoods)
        np.testing.assert_allclose(list(first["candidates"].values()), told[0], atol=1e-4)
        np.testing.assert_allclose(list(row["candidates"].values()), np.mean(told, axis=0), atol=1e-4)
        np.testing.assert_allclose(list(each["candidates"].values()), told[0] / 2, atol=1e-4)  # " 7" has two letters
        assert row["prediction"] == item.candidates[int(np.argmax(np.mean(told, axis=0)))]


def test_controls_at_one_or_all_numbers_of_shots(folder):
    def tried(**settings):
        found, _, _ = ask(folder, shots=(0, 2), queries=2, **settings)
        return [(row["shots"], row["control"]) for row in found.rows]

    names = ("blanked", "shuffled", "relabelled", "unpictured")
    assert tried(controls=names) == [(0, "none"), (2, "none"), *((2, name) for name in names)]
    assert tried(controls=names, control_shots="all") == [
        *((0, "none"), (2, "none"), (0, "blanked"), (2, "blanked")),
        *((2, name) for name in names[1:]),
    ]
    model = Guesser()
    ask(folder, model=model, shots=(2,), queries=1, controls=("unpictured",), seeds=1)
    assert [len(prompt.media) for prompt in model.prompts] == [3, 1]


def test_broken_pictures_count_as_wrong_and_another_demonstration_stands_in(folder, tmp_path):
    broken = write_files(tmp_path / "broken")
    (broken / "test-3.png").write_bytes(b"no picture")
    for number in (1, 5):
        data = (broken / f"train-{number}.png").read_bytes()
        (broken / f"train-{number}.png").write_bytes(data[: len(data) // 2])
    settings = {"shots": (6,), "seeds": 3, "selections": ("random", "rices")}
    found, rows, task = ask(broken, max_bad_share=0.05, results=tmp_path / "results", **settings)
    _, whole, _ = ask(folder, **settings)
    assert {(one["id"], one["kind"]) for one in found.bad} == {
        ("test3", "not_an_image"),
        ("train1", "truncated"),
        ("train5", "truncated"),
    }
    for row, good in zip(rows, whole, strict=True):
        ids, before = ([one["id"] for one in each["demonstrations"]] for each in (row, good))
        if row["id"] == "test3":
            assert row["score"] == 0 and row["prompt"] == "" and "not a picture" in row["bad"][0]["message"]
        else:
            assert len(ids) == 6 and not {"train1", "train5"} & set(ids)
            assert [one for one in before if one not in ("train1", "train5")] == [one for one in ids if one in before]
    page = write_evaluation_page(
        tmp_path, "guesser", found.rows, worst_predictions([task], rows), found.bad
    ).read_text()
    assert "Broken pictures" in page and "train5" in page and page.count("data:image/png;base64,") > 10
    assert "official" in page and "made vqa" in page
    with pytest.raises(DataError, match="3 pictures of made_vqa cannot be decoded"):
        ask(broken, max_bad_share=0.02, **settings)


def test_the_worst_predictions_have_the_pictures_that_were_shown(folder):
    _, rows, task = ask(folder, RANKED, shots=(2,), seeds=2)
    shown = worst_predictions([task], iter(rows), count=5)
    assert len(shown) == 5 and all(one.row["score"] == 0 for one in shown)
    sure = [max(one.row["candidates"].values()) - one.row["candidates"][one.row["answer"]] for one in shown]
    assert sure == sorted(sure, reverse=True)
    wrong = [row for row in rows if row["score"] == 0]
    assert sure[0] == max(max(row["candidates"].values()) - row["candidates"][row["answer"]] for row in wrong)
    for one in shown:
        own = {item.id: item.media[0].load()[0] for item in (*task.items, *task._pool.items)}
        np.testing.assert_array_equal(one.pictures[0], own[one.row["id"]])
        for pictures, demonstration in zip(one.demonstrations, one.row["demonstrations"], strict=True):
            np.testing.assert_array_equal(pictures[0], own[demonstration["id"]])


def test_templates():
    pictures = tuple(Media((np.zeros((1, 1, 3), np.uint8),)) for _ in range(3))
    item = Item("7", pictures, {"question": "is {image} <image>?"}, ("yes",))
    template = Template("one {image} two {image}: {question} A:", " {answer}.")
    texts = [getattr(segment, "text", segment) for segment in asked_segments(template, item)]
    assert texts == ["one ", pictures[0], " two ", *pictures[1:], ": is {image} <image>? A:"]
    assert answer_text(template, item, "{no}").text == " {no}." and answer_text(template, item, "x").end_of_chunk
    with pytest.raises(InputError, match=r"names \{hint\}, and item 7 has image, question"):
        asked_segments(Template("{image}{hint}"), item)
    with pytest.raises(InputError, match=r"has no \{image\}"):
        asked_segments(Template("{question}"), item)


def test_what_cannot_be_picked_or_ranked_is_said(folder, tmp_path):
    def settings(benchmark, **further):
        return questions(benchmark, folder, Options(controls=(), **further), Guesser()).settings()

    with pytest.raises(InputError, match="without two different candidates"):
        questions(WRITTEN, folder, Options(), Guesser(), method="rank")
    with pytest.raises(InputError, match="there is no selection 'rice'"):
        Options(selections=("rice",))
    with pytest.raises(InputError, match="too few for 25 demonstrations"):
        ask(folder, shots=(25,), queries=1)
    assert settings(WRITTEN, shots=(4, 0), selections=("rices", "random")) == [
        Setting("made_vqa", 0, "rices"),
        Setting("made_vqa", 4, "rices"),
        Setting("made_vqa", 4, "random"),
    ]


def test_chunks_are_cut_by_queries_and_pictures(folder):
    task = questions(WRITTEN, folder, Options(controls=(), shots=(0, 7), seeds=1), Guesser())
    task.chunk = (10, 16)
    chunks = plan_chunks([(task, setting) for setting in task.settings()])
    assert [len(chunk) for chunk in chunks] == [10, 4, 2, 2, 2, 2, 2]
