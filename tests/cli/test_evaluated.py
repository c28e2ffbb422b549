"""What a run evaluates while it trains: digit tasks and benchmarks, whose files are looked for at the start."""

import pytest

from mmjax.cli.evaluated import tasks_while_training
from mmjax.core.errors import InputError
from mmjax.data.config import DataConfig, SourceEntry
from mmjax.evaluation.benchmarks.table import BENCHMARKS
from mmjax.evaluation.harness import evaluate
from mmjax.evaluation.settings import Options
from mmjax.training.metrics import score_names
from tests.evaluation import made

DATA = DataConfig(
    sources={"bind": SourceEntry("digits_bind"), "read": SourceEntry("digits_read")}, image_size=made.SIDE
)
OPTIONS = Options(shots=(1,), seeds=1, queries=3, selections=("rices",), controls=("blanked",))


def test_digits_and_benchmarks_are_asked_of_each_step_anew(tmp_path, monkeypatch):
    monkeypatch.setitem(BENCHMARKS, "made_vqa", made.WRITTEN)
    folder, model, embedded = made.write_files(tmp_path / "data", test=3, train=4), made.Guesser(), []

    def embed(pictures):
        embedded.append(len(pictures))
        return model.embed_pictures(pictures, progress=lambda count: None)

    tasks = tasks_while_training(["bind_2way", "made_vqa"], OPTIONS, DATA, [f"made_vqa={folder}"], embed)
    rows = evaluate(model, tasks(), OPTIONS, progress=False).rows
    assert list(score_names(rows)) == [
        "bind_2way_1_shots",
        "bind_2way_1_shots_blanked",
        "made_vqa_1_shots",
        "made_vqa_1_shots_blanked",
    ]
    once = sum(embedded)
    assert evaluate(model, tasks(), OPTIONS, progress=False).rows == rows
    assert sum(embedded) == 2 * once > 7  # the encoder may have learned in between
    with pytest.raises(InputError, match=r"made_vqa reads test\.json"):
        tasks_while_training(["made_vqa"], OPTIONS, DATA, [], embed)
    with pytest.raises(InputError, match="two towers, which this run has not"):
        tasks_while_training(["coco_retrieval"], OPTIONS, DATA, [f"coco_retrieval={folder}"], embed)


def test_scores_have_names_of_their_own():
    row = {"task": "t", "shots": 4, "selection": "random", "control": "none", "score": 0.5}
    rows = [row, {**row, "selection": "rices"}, {**row, "control": "blanked"}, {**row, "shots": 0, "score": None}]
    assert list(score_names(rows)) == ["t_4_shots", "t_4_shots_rices", "t_4_shots_blanked"]
