"""Several processes on this machine: what is started, what a failure and a signal do."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest

from launch.local import Process, main, plan, read_options, run


def test_a_dry_run_prints_what_would_be_started_and_starts_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", pytest.fail)
    logs = tmp_path / "the logs"
    flags = ["--processes", "3", "--devices-per-process", "4", "--port", "8476", "--logs", str(logs), "--dry-run"]
    assert main([*flags, "--", "train", "--config", "configs/c.py:tiny", "--workdir", "runs/a b"]) == 0
    made, *lines, last = capsys.readouterr().out.splitlines()
    assert (made, last) == (f"mkdir -p {shlex.quote(str(logs))}", "wait")
    assert not logs.exists()
    for index, line in enumerate(lines):
        assert shlex.split(line) == [
            *("NPROC=16", "PYTHONUNBUFFERED=1", sys.executable, "-m", "mmjax"),
            *("train", "--config", "configs/c.py:tiny", "--workdir", "runs/a b", "--simulate-devices", "4"),
            *("--coordinator", "localhost:8476", "--processes", "3", "--process-id", str(index)),
            *(">", f"{logs}/process-{index}.log", "2>&1", "&"),
        ]
    assert len(lines) == 3


def test_a_free_port_is_found():
    one, two = plan(read_options(["--", "train"]))
    assert one.command[:-1] == two.command[:-1] and (one.command[-1], two.command[-1]) == ("0", "1")
    assert 1024 < int(one.command[one.command.index("--coordinator") + 1].split(":")[1]) < 65536


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--processes", "0", "--", "train"], "--processes must be 1 or more, not 0"),
        (["--devices-per-process", "0", "--", "train"], "--devices-per-process must be 1 or more"),
        (["--signal-one", "2", "--", "train"], "--signal-one must be a process from 0 to 1, not 2"),
        ([], "say what to run, after --"),
    ],
)
def test_mistakes_are_named(arguments, message, capsys):
    assert main(arguments) == 2
    assert f"error: {message}" in capsys.readouterr().err


def processes(tmp_path, *programs):
    return [
        Process((sys.executable, "-c", program), {"PLACE": str(index)}, tmp_path / "logs" / f"process-{index}.log")
        for index, program in enumerate(programs)
    ]


def test_all_that_do_well_give_0_and_have_logs(tmp_path):
    program = "import os, sys; print('out', os.environ['PLACE']); print('err', file=sys.stderr)"
    assert run(processes(tmp_path, program, program), grace_seconds=5) == 0
    for index in range(2):
        assert sorted((tmp_path / "logs" / f"process-{index}.log").read_text().split()) == sorted(
            ["out", str(index), "err"]
        )


def test_a_failure_is_told_and_the_others_are_ended_after_the_grace_time(tmp_path, capsys):
    began = time.monotonic()
    codes = run(processes(tmp_path, "import time; time.sleep(60)", "print('no data'); exit(3)"), grace_seconds=1)
    assert codes == 3 and time.monotonic() - began < 30
    told = capsys.readouterr().err
    assert "error: process 1 failed (exit code 3)" in told and "\n  no data\n" in told


def test_a_killed_process_is_a_failure(tmp_path, capsys):
    killed = "import os; os.kill(os.getpid(), 9)"
    assert run(processes(tmp_path, killed), grace_seconds=1) == 137
    assert "process 0 failed (SIGKILL)" in capsys.readouterr().err


@pytest.mark.parametrize("one, expected", [(None, ["0", "1"]), (1, ["1"])])
def test_sigterm_is_passed_on_to_all_or_to_one(tmp_path, one, expected):
    program = (
        "import os, pathlib, signal, sys, time\n"
        "here = pathlib.Path(sys.argv[1]); place = os.environ['PLACE']\n"
        "signal.signal(signal.SIGTERM, lambda *_: (here / f'got-{place}').touch())\n"
        "(here / f'ready-{place}').touch()\n"
        f"while len(list(here.glob('got-*'))) < {len(expected)}: time.sleep(0.02)\n"
    )
    planned = [
        Process((*process.command, str(tmp_path)), process.environment, process.log)
        for process in processes(tmp_path, program, program)
    ]

    def send():
        while len(list(tmp_path.glob("ready-*"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    assert run(planned, grace_seconds=5, signal_to=one) == 0
    sender.join()
    assert sorted(path.name.removeprefix("got-") for path in tmp_path.glob("got-*")) == expected
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
