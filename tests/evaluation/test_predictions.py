"""Predictions as they are kept: an evaluation goes on where it was interrupted, and ends with the same file."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from mmjax.evaluation.benchmark_questions import BenchmarkQuestions
from mmjax.evaluation.harness import evaluate
from mmjax.evaluation.predictions import FileStore
from mmjax.evaluation.settings import Options
from tests.cli.program import surroundings
from tests.evaluation.made import WRITTEN, Guesser, write_files

SETTINGS = {"controls": ("relabelled",), "seeds": 3, "shots": (0, 2), "selections": ("random", "balanced")}


class Slow(Guesser):
    """Takes its time, and may stop at a prompt."""

    def __init__(self, *, seconds=0.0, stops_after=None):
        super().__init__()
        self.seconds, self.left = seconds, stops_after

    def write(self, prompts, **settings):
        if self.left is not None:
            self.left -= len(prompts)
            if self.left < 0:
                raise KeyboardInterrupt
        time.sleep(self.seconds)
        return super().write(prompts, **settings)


def run(data, out, model, about="guesser"):
    options = Options(**SETTINGS)
    task = BenchmarkQuestions(WRITTEN, data, options, embed=model.embed_pictures, encoder=str, cache=None)
    task.chunk = (5, 40)
    store = FileStore(out, {"model": about, "items": task.digest()})
    return evaluate(model, [task], options, store=store, results=out / "results", progress=False).rows


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("data") / "digits")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """(rows, predictions) of an evaluation that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    return run(data, out, Guesser()), (out / "predictions.jsonl").read_bytes()


@pytest.mark.parametrize("stops_after", [0, 7, 50])
def test_an_interrupted_evaluation_goes_on(data, whole, tmp_path, stops_after):
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, Slow(stops_after=stops_after))
    partial = tmp_path / "predictions.partial.jsonl"
    kept = partial.read_bytes()
    assert whole[1].startswith(kept) and not (tmp_path / "predictions.jsonl").exists()
    partial.write_bytes(whole[1][: len(kept) + 100])  # a line that a kill cut off
    model = Guesser()
    assert run(data, tmp_path, model) == whole[0]
    assert (tmp_path / "predictions.jsonl").read_bytes() == whole[1] and not partial.exists()
    assert len(model.prompts) == whole[1].count(b"\n") - kept.count(b"\n")


def test_another_evaluation_begins_anew(data, whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, Slow(stops_after=20), about="another")
    model = Guesser()
    run(data, tmp_path, model)
    assert len(model.prompts) == whole[1].count(b"\n")
    assert (tmp_path / "predictions.jsonl").read_bytes() == whole[1]


def test_killed_at_any_moment_it_ends_with_the_same_file(data, whole, tmp_path):
    program = (
        "import sys; from pathlib import Path; from tests.evaluation.test_predictions import Slow, run;"
        "run(Path(sys.argv[1]), Path(sys.argv[2]), Slow(seconds=0.05))"
    )
    command = [sys.executable, "-c", program, str(data), str(tmp_path)]
    environment = surroundings(JAX_PLATFORMS="cpu", PYTHONPATH=str(pathlib.Path(__file__).parents[2]))
    partial = tmp_path / "predictions.partial.jsonl"
    process = subprocess.Popen(command, env=environment)
    try:
        while not (partial.exists() and partial.stat().st_size > int.from_bytes(os.urandom(1)) * len(whole[1]) // 400):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "predictions.jsonl").exists()
    assert run(data, tmp_path, Guesser()) == whole[0]
    assert (tmp_path / "predictions.jsonl").read_bytes() == whole[1]
