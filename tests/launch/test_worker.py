"""What a launched process executes: its exit code tells a cluster whether to start it again."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from launch import worker

TINY = ["train", "--config", "configs/flamingo_digits.py:tiny", "--simulate-devices", "1"]


@pytest.mark.parametrize(
    "result, code",
    [
        ({"step": 9, "stopped_by": "", "checkpoint": "c"}, 0),
        ({"step": 4, "stopped_by": "SIGTERM", "checkpoint": "c"}, worker.STOPPED),
    ],
)
def test_a_stop_is_told_from_the_end(monkeypatch, capsys, result, code):
    def train(words):
        assert words == ["train", "--workdir", "w", "--json"]
        print(json.dumps(result))
        return 0

    monkeypatch.setattr(worker, "mmjax", train)
    assert worker.main(["train", "--workdir", "w"]) == code
    assert json.loads(capsys.readouterr().out) == result


def test_failures_keep_their_code(monkeypatch):
    monkeypatch.setattr(worker, "mmjax", lambda words: 2)
    assert worker.main(["train"]) == 2
    assert worker.main(["eval"]) == 2


@pytest.mark.slow
def test_a_process_that_is_told_to_stop_saves_and_asks_to_be_started_again(tmp_path):
    command = [sys.executable, "-m", "launch.worker", *TINY, "--workdir", str(tmp_path), "--config.total_steps=100000"]
    quick = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=quick)
    too_late = threading.Timer(300, process.kill)
    too_late.start()
    told = []
    for line in process.stderr:
        told.append(line)
        if line.startswith("step "):
            process.send_signal(signal.SIGTERM)
            break
    printed, rest = process.communicate()
    too_late.cancel()
    assert process.returncode == worker.STOPPED, "".join(told) + rest
    result = json.loads(printed)
    assert result["stopped_by"] == "SIGTERM"
    assert (tmp_path / "checkpoints" / str(result["step"])).exists()
    assert f"stopped by SIGTERM at step {result['step']}" in rest
