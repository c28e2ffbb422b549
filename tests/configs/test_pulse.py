"""Every config file pulses at its tiny size: trains, saves, resumes to the same end, and is evaluated."""

import dataclasses
import json
import pathlib
import shutil

import pytest

from mmjax.checkpoints.inspect import inspect
from mmjax.cli.configs import load_config
from mmjax.cli.train import evaluation_while_training
from mmjax.training.loop import Trainer

CONFIGS = sorted(path for path in (pathlib.Path(__file__).parents[2] / "configs").glob("*.py") if path.stem != "common")


pytestmark = pytest.mark.usefixtures("quick_programs")


def digest(workdir):
    """(step, hash over parameters, optimizer state and data position) of the newest checkpoint."""
    record = inspect(workdir, warn=pytest.fail)
    return record["step"], record["sha256"]


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


# Built as another is, but for sizes: 9B has all that they have.
ALIKE = ("flamingo_3b", "flamingo_80b")


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow if path.stem in ALIKE else ()) for path in CONFIGS],
    ids=lambda path: path.stem,
)
def test_pulse(path, tmp_path):
    config = load_config(f"{path}:tiny", [("data.workers", "0")])
    assert (config.total_steps, config.checkpoint.every_steps) == (4, 2)
    evaluated = config.model.family == "flamingo"
    if evaluated:
        wanted = {"tasks": ("read_single",), "queries": 2}
        wanted = dataclasses.replace(config.evaluation, **wanted)
        config = dataclasses.replace(config, eval_every_steps=4, evaluation=wanted)
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    result = Trainer(config, straight, evaluate=evaluation_while_training(config)).train()
    assert (result.step, result.stopped_by) == (4, "")
    assert all(0.0 < loss < 100.0 for loss in losses(straight).values())
    if evaluated:
        [evaluation] = map(json.loads, (straight / "evaluations.jsonl").read_text().splitlines())
        assert evaluation["step"] == 4 and evaluation["rows"][0]["task"] == "read_single"
        assert evaluation["rows"][0]["n"] == 2

    shutil.copytree(straight, resumed)
    shutil.rmtree(resumed / "checkpoints" / "4")
    assert digest(resumed)[0] == 2
    Trainer(config, resumed).train()
    assert digest(resumed) == digest(straight)
    assert losses(resumed) == losses(straight) and list(losses(resumed)) == [1, 2, 3, 4]
