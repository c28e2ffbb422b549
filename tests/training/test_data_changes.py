"""Runs whose data end, and runs whose data are changed on the way."""

import json

import pytest

from mmjax.core.errors import InputError
from mmjax.data.segments import read_segments
from mmjax.training.loop import Trainer
from tests.training.tiny_runs import tiny_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_programs")]
NAMES = ("bind", "bind_short", "read", "scene")


def test_weights_are_changed_on_the_way_and_recorded(tmp_path, capsys, mmjax_ids):
    Trainer(tiny_config("total_steps=2"), tmp_path).train()
    with pytest.raises(InputError, match=r"the run in .* read other data .* or set data.from_step to 2"):
        Trainer(tiny_config("data.sources.read.weight=9"), tmp_path).train()
    Trainer(tiny_config("data.sources.read.weight=9", "data.from_step=2", "total_steps=3"), tmp_path).train()
    assert "the data are others from step 2 on" in capsys.readouterr().err
    Trainer(tiny_config("data.sources.read.weight=9"), tmp_path).train()
    assert [segment.begun.step for segment in read_segments(tmp_path)] == [0, 2]
    assert mmjax_ids(tmp_path, "0:2") == mmjax_ids(None, "0:2")
    seen = mmjax_ids(tmp_path, "0:4")
    assert [line["step"] for line in seen] == [0, 1, 2, 3]
    assert mmjax_ids(tmp_path, "2:4") == seen[2:]
    position = json.loads((tmp_path / "checkpoints" / "4" / "manifest.json").read_text())["position"]
    rows = [row for line in seen for row in line["rows"]]
    for name in NAMES:
        assert position[f"rows/{name}"] == sum(row.startswith(f"{name}:") for row in rows)


@pytest.fixture
def mmjax_ids(capsys):
    from mmjax.cli.main import main

    def ids(workdir, steps):
        where = [] if workdir is None else ["--workdir", str(workdir)]
        overrides = ["--config.compute_dtype=float32", "--config.data.phases=[]"]
        config = ["--config", "configs/flamingo_digits.py:tiny", *overrides]
        capsys.readouterr()
        assert main(["data", "ids", *config, "--steps", steps, "--json", *where]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return ids


def test_a_run_ends_with_its_data(tmp_path, capsys):
    small = [f"data.sources.{name}.options.count=12" for name in NAMES]
    changes = (*small, "data.epochs=1", "data.weigh_by=rows", "total_steps=90", "checkpoint.every_steps=0")
    result = Trainer(tiny_config(*changes), tmp_path).train()
    assert (result.stopped_by, result.checkpoint) == ("", tmp_path / "checkpoints" / str(result.step))
    assert 1 <= result.step < 30
    assert f"the data end after step {result.step} (data.epochs), and the run with them" in capsys.readouterr().err
    assert Trainer(tiny_config(*changes), tmp_path).train().step == result.step
    assert "nothing is left to do" in capsys.readouterr().err
