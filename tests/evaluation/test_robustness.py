"""Benchmarks under corruptions beside themselves, and the table of what is lost."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.core.example import Media
from mmjax.evaluation import robustness
from mmjax.evaluation.benchmark import Item
from mmjax.evaluation.benchmarks.table import BENCHMARKS
from mmjax.evaluation.corruptions import CORRUPTIONS
from mmjax.evaluation.harness import evaluate
from mmjax.evaluation.predictions import MemoryStore
from mmjax.evaluation.settings import Options
from tests.evaluation.made import WRITTEN, Guesser, write_files
from tests.evaluation.test_benchmark_questions import questions

PICTURE = np.zeros((8, 8, 3), np.uint8)


def test_a_benchmark_under_a_corruption_is_one_of_its_own():
    train = Item("1", (Media((PICTURE,)),), {"question": "where?"}, ("b",))
    items = [Item("7", (Media((PICTURE,)),), {"question": "what is it, and where is it?"}, ("a",)), train]
    made = dataclasses.replace(BENCHMARKS["vqav2"], read=lambda folder, split: [train] if split == "train" else items)
    assert robustness.kinds_of(made) == list(CORRUPTIONS)
    typed = robustness.under(made, "typos", 5)
    assert typed.name == "vqav2-typos-5"
    assert typed.read(Path(), "train") == [train]
    (first, _) = typed.read(Path(), "test")
    assert first.fields["question"] != items[0].fields["question"]
    assert typed.read(Path(), "test") == typed.read(Path(), "test")
    assert "missing" not in robustness.kinds_of(BENCHMARKS["coco_retrieval"])
    with pytest.raises(InputError, match="typos does not apply to coco_caption"):
        robustness.under(BENCHMARKS["coco_caption"], "typos", 1)


def test_all_strengths_of_all_kinds_beside_the_benchmark_itself():
    names = [one.name for one in robustness.robust_tasks(BENCHMARKS["gqa"])]
    assert names[:3] == ["gqa", "gqa-blur-1", "gqa-blur-2"] and len(names) == len(set(names)) == 1 + 5 * 5 + 1
    some = robustness.robust_tasks(BENCHMARKS["gqa"], ["missing", "jpeg"])
    assert [one.name for one in some] == ["gqa", "gqa-missing-1", *(f"gqa-jpeg-{strength}" for strength in range(1, 6))]
    with pytest.raises(InputError, match="no corruption 'fog'"):
        robustness.robust_tasks(BENCHMARKS["gqa"], ["fog"])


def row(task, score, *, shots=0, control="none"):
    return {"task": task, "shots": shots, "selection": "random", "control": control, "score": score}


def test_the_table_has_the_mean_loss_relative_to_clean():
    rows = [
        row("vqav2", 0.5),
        row("vqav2", 0.1, control="blanked"),
        *(row(f"vqav2-blur-{strength}", 0.55 - 0.05 * strength) for strength in range(1, 6)),
        row("vqav2-missing-1", 0.3),
        row("vqav2", 0.6, shots=4),
        row("vqav2-blur-1", 0.3, shots=4),
        row("pope_random", None),
        row("pope_random-noise-1", 0.5),
        row("coco_caption", 0.9),
    ]
    table = robustness.robustness_table(robustness.robustness_scores(rows)).splitlines()
    assert table[0].split() == ["task", "corruption", "clean", "1", "2", "3", "4", "5", "drop"]
    cells = [line.replace(", ", ",").replace(" shots", "").split() for line in table[2:]]
    assert cells == [
        ["vqav2,0", "blur", "50.0", "50.0", "45.0", "40.0", "35.0", "30.0", "20.0%"],
        ["vqav2,0", "missing", "50.0", "30.0", "40.0%"],
        ["vqav2,4,random", "blur", "60.0", "30.0", "50.0%"],
        ["pope_random,0", "noise", "-", "50.0", "-"],
    ]
    with pytest.raises(InputError, match="no score without corruption"):
        robustness.robustness_table(robustness.robustness_scores(rows[3:8]))


class Knower(Guesser):
    """Knows the digits of pictures that it has seen as they are, and no others."""

    def __init__(self, items):
        super().__init__()
        self.digits = {item.media[0].load()[0].tobytes(): item.answers[0] for item in items}

    def write(self, prompts, *, max_tokens, stop, beams, progress):
        self.prompts += prompts
        progress(len(prompts))
        return [
            self.digits.get(prompt.media[-1].load()[0].tobytes(), "?") if _ends_in_a_picture(prompt) else "nothing"
            for prompt in prompts
        ]


def _ends_in_a_picture(prompt):
    return isinstance(prompt.segments[-2], Media)


def test_the_same_items_are_asked_with_the_same_demonstrations(tmp_path):
    folder = write_files(tmp_path / "digits")
    kinds = ["occlusion", "missing", "typos"]
    made = robustness.robust_tasks(dataclasses.replace(WRITTEN, templates=WRITTEN.templates[:1]), kinds)
    model, store = Knower(WRITTEN.read(folder, "test")), MemoryStore()
    options = Options(controls=(), seeds=1, shots=(1,), queries=5)
    tasks = [questions(benchmark, folder, options, model) for benchmark in made]
    found = evaluate(model, tasks, options, store=store, progress=False)
    asked = {}
    for told in store.rows():
        shown = tuple(one["id"] for one in told["demonstrations"])
        asked.setdefault(told["task"], []).append((told["id"], shown))
    assert len(asked) == 12 and len(set(map(tuple, asked.values()))) == 1
    table = robustness.robustness_table(robustness.robustness_scores(found.rows)).splitlines()
    cells = {line.split()[4]: line.split()[5:] for line in table[2:]}
    assert cells["missing"] == ["100.0", "0.0", "100.0%"]
    assert cells["typos"] == ["100.0"] * 6 + ["0.0%"]
    assert cells["occlusion"][0] == "100.0" and cells["occlusion"][5] == "0.0"
