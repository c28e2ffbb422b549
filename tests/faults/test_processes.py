"""Runs of several processes, started by `launch.local`'s plan: killed, stopped, stuck, and resumed by fewer or more."""

import json
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

from launch.local import plan, read_options
from mmjax.checkpoints.folder import list_complete_steps
from mmjax.checkpoints.inspect import inspect
from tests.cli.program import quick_surroundings

HEARTBEAT = 30
# As long as a loaded machine may take to start a run and to compile it.
START_SECONDS = 1200
SETTINGS = [
    "compute_dtype=float32",
    "data.phases=[]",
    "log_every_steps=1",
    "total_steps=100000",
    "checkpoint.every_steps=2",
    "checkpoint.keep_last=5",
    f"guards.heartbeat_seconds={HEARTBEAT}",
    "guards.watchdog_seconds=240",
]


class Job:
    """Processes of one run, or of another `command`. `devices` is their number over all processes."""

    def __init__(self, workdir, *settings, processes=2, devices=4, fsdp=2, command=None):
        self.workdir = workdir
        if command is None:
            command = ["train", "--config", "configs/flamingo_digits.py:tiny", "--workdir", str(workdir)]
            command += [f"--config.{setting}" for setting in [*SETTINGS, f"mesh.fsdp={fsdp}", *settings]]
        flags = ["--processes", str(processes), "--devices-per-process", str(devices // processes)]
        flags += ["--logs", str(workdir.parent / f"{workdir.name}-logs")]
        self.planned = plan(read_options([*flags, "--", *command]))
        self.running = []
        for process in self.planned:
            process.log.parent.mkdir(parents=True, exist_ok=True)
            environment = {**quick_surroundings(workdir.parent / "cache"), **process.environment}
            environment["RECORDED"] = str(process.log.parent)
            program = [{"mmjax": "tests.faults.recorded_run"}.get(word, word) for word in process.command]
            with open(process.log, "wb") as log:
                self.running.append(subprocess.Popen(program, env=environment, stdout=log, stderr=log))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self.running:
            process.kill()
            process.wait()

    def wait_for_step(self, step):
        deadline = time.monotonic() + START_SECONDS
        while max(self.steps(), default=0) < step:
            assert time.monotonic() < deadline and all(one.poll() is None for one in self.running), self.logs()
            time.sleep(0.05)

    def steps(self):
        folder = self.workdir / "checkpoints"
        return list_complete_steps(folder) if folder.exists() else []

    def send(self, number, index):
        self.running[index].send_signal(number)

    def ends(self, *indices, seconds):
        """Exit codes of these processes, that are to end within so many seconds."""
        deadline = time.monotonic() + seconds
        codes = [self.running[index].wait(timeout=max(0.1, deadline - time.monotonic())) for index in indices]
        return codes

    def log(self, index):
        return self.planned[index].log.read_text()

    def logs(self):
        return "\n".join(f"-- {index}\n{self.log(index)[-4000:]}" for index in range(len(self.planned)))


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines)}


def read_rows(workdir):
    """What all processes of all starts of a run have read: {step: {place in the batch: (ids, digest)}}.

    What is read twice (after a kill, or by processes that share a row) must be the same.
    """
    found = {}
    for file in (workdir.parent / f"{workdir.name}-logs").glob("process-*.jsonl"):
        for line in map(json.loads, file.read_text().splitlines()):
            for place, *told in line["rows"]:
                assert found.setdefault(line["step"], {}).setdefault(place, told) == told, (line["step"], place)
    return found


def stop(job, step, *, index=0):
    """Sends SIGTERM to one process after `step`; returns the step that all have saved."""
    job.wait_for_step(step)
    job.send(signal.SIGTERM, index)
    processes = range(len(job.running))
    assert set(job.ends(*processes, seconds=120)) == {0}, job.logs()
    said = {re.search(r"stopped by SIGTERM at step (\d+), which is saved", job.log(one))[1] for one in processes}
    assert len(said) == 1 and int(said.pop()) == max(job.steps()), job.logs()
    return max(job.steps())


@pytest.mark.parametrize(
    ("processes", "compared"),
    [(2, False), pytest.param(2, True, marks=pytest.mark.slow), pytest.param(4, True, marks=pytest.mark.slow)],
)
@pytest.mark.timeout(3600)
def test_a_killed_process_ends_the_others_and_a_stopped_one_saves_with_them(tmp_path, processes, compared):
    disturbed, undisturbed = tmp_path / "disturbed", tmp_path / "undisturbed"
    last, others = processes - 1, range(processes - 1)
    with Job(disturbed, processes=processes) as job:
        job.wait_for_step(2)
        job.send(signal.SIGKILL, last)
        assert set(job.ends(*others, seconds=HEARTBEAT)) == {1}, job.logs()
        for one in others:
            assert re.search(rf"error: process {last} at \S+ is gone, or stopped: .* again", job.log(one)), job.logs()
    with Job(disturbed, processes=processes) as job:
        reached = stop(job, max(job.steps()) + 2, index=last)
        assert ["resuming" in job.log(one) for one in range(processes)] == [True] + [False] * last
    assert inspect(disturbed, warn=pytest.fail)["step"] == reached
    found = losses(disturbed)
    assert sorted(found) == list(range(1, reached + 1))
    if not compared:
        return
    with Job(undisturbed, processes=processes) as job:
        stop(job, reached)
    expected = losses(undisturbed)
    assert all(found[step] == expected[step] for step in found)  # bit for bit
    rows, expected_rows = read_rows(disturbed), read_rows(undisturbed)
    assert all(rows[step] == expected_rows[step] for step in found)


@pytest.mark.slow
def test_the_end_of_the_coordinator_ends_the_others(tmp_path):
    with Job(tmp_path / "run") as job:
        job.wait_for_step(2)
        job.send(signal.SIGKILL, 0)
        assert job.ends(1, seconds=HEARTBEAT)[0] != 0, job.logs()
        assert re.search(r"process 0 at \S+, which coordinates the others, is gone|leader task", job.log(1))


@pytest.mark.slow
@pytest.mark.parametrize("stuck", [0, 1])
def test_a_stuck_process_ends_the_others(tmp_path, stuck):
    with Job(tmp_path / "run") as job:
        job.wait_for_step(2)
        job.send(signal.SIGSTOP, stuck)
        assert job.ends(1 - stuck, seconds=HEARTBEAT) == [1], job.logs()
        reason = rf"error: process {stuck} at \S+?,? .*is gone, or stopped: no (sign of life|answer) for \d+ s"
        assert re.search(reason, job.log(1 - stuck)), job.logs()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_and_four_processes_learn_what_one_does_and_resume_each_other(tmp_path):
    runs = {}
    for processes in (1, 2, 4):
        runs[processes] = tmp_path / f"by-{processes}"
        with Job(runs[processes], "total_steps=6", processes=processes) as job:
            assert set(job.ends(*range(processes), seconds=START_SECONDS)) == {0}, job.logs()
    expected = losses(runs[1])
    for processes in (2, 4):
        found = losses(runs[processes])
        assert sorted(found) == sorted(expected) == list(range(1, 7))
        # The order of summation differs between devices of one process and of several: 1e-6 of the loss.
        np.testing.assert_allclose([found[step] for step in found], [expected[step] for step in found], rtol=1e-5)
        assert read_rows(runs[processes]) == read_rows(runs[1])
    straight, rows = goes_on(tmp_path, runs[1], steps=6, total=10, processes=1)
    assert sorted(rows) == [7, 8, 9, 10] and all(sorted(read) == list(range(8)) for read in rows.values())
    for before, after in ((2, 1), (2, 4), (4, 2), (1, 4)):
        found, read = goes_on(tmp_path, runs[before], steps=6, total=10, processes=after)
        np.testing.assert_allclose(found, straight, rtol=1e-4)
        assert read == rows


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_evaluate_and_write_as_one_does(tmp_path):
    workdir = tmp_path / "run"
    with Job(workdir, "total_steps=2", processes=1) as job:
        assert job.ends(0, seconds=START_SECONDS) == [0], job.logs()
    Image.new("RGB", (40, 30), "white").save(tmp_path / "a.png")
    evaluate = ["eval", "--tasks", "bind_2way", "--shots", "1", "--seeds", "1", "--queries", "6"]
    write = ["generate", "--image", str(tmp_path / "a.png"), "--prompt", "this is", "--max-tokens", "6", "--json"]
    found = {}
    for processes in (1, 2):
        with Job(workdir, processes=processes, command=[*evaluate, "--checkpoint", str(workdir)]) as job:
            assert set(job.ends(*range(processes), seconds=START_SECONDS)) == {0}, job.logs()
        predictions = (workdir / "predictions.jsonl").read_text()
        with Job(workdir, processes=processes, command=[*write, "--checkpoint", str(workdir)]) as job:
            assert set(job.ends(*range(processes), seconds=START_SECONDS)) == {0}, job.logs()
        [line] = [line for index in range(processes) for line in job.log(index).splitlines() if line[:1] == "{"]
        found[processes] = predictions, json.loads(line)["tokens"]
    assert found[1] == found[2]


def goes_on(tmp_path, workdir, *, steps, total, processes):
    """Losses of the steps after `steps`, and what is read, by a copy of the run that goes on by so many processes."""
    copy = shutil.copytree(workdir, tmp_path / f"{workdir.name}-then-{processes}")
    with Job(copy, f"total_steps={total}", processes=processes) as job:
        assert set(job.ends(*range(processes), seconds=START_SECONDS)) == {0}, job.logs()
        assert f"resuming {copy} at step {steps}" in job.log(0)
    return [loss for step, loss in sorted(losses(copy).items()) if step > steps], read_rows(copy)
