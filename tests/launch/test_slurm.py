"""The batch script: what it asks of SLURM, and what it does when the run ends, with stand-ins for srun and scontrol."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from launch import slurm
from launch.options import main
from tests.launch.dry_runs import commands, dry_run, given_input

RUN = "submit --name demo --nodes 4 --config configs/flamingo_3b.py"
FULL = f"{RUN} --workdir /shared/demo --sbatch=--partition=gpu --env A='x y' -- --config.batch_size=512"


def test_the_script_asks_for_a_process_a_gpu(nothing_runs):
    printed = dry_run("slurm", FULL)
    assert commands(printed) == [["mkdir", "-p", "/shared/demo"], ["sbatch", "<<END_OF_INPUT"]]
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", given_input(printed), flags=re.MULTILINE))
    assert asked == {
        "job-name": "demo",
        "nodes": "4",
        "ntasks-per-node": "8",
        "gpus-per-node": "8",
        "time": "24:00:00",
        "output": "/shared/demo/slurm-%j.log",
        "open-mode": "append",
        "requeue": "",
        "signal": "TERM@300",
        "partition": "gpu",
    }


def test_the_script_passes_shellcheck(nothing_runs, monkeypatch, tmp_path):
    script = tmp_path / "job.sh"
    script.write_text(given_input(dry_run("slurm", FULL)))
    monkeypatch.undo()
    program = pathlib.Path(sys.executable).parent / "shellcheck"
    result = subprocess.run([program, script], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Starts the script with an srun that ends with a given code, or, told to wait, with 75 at SIGTERM."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "srun").write_text(
        '#!/usr/bin/env bash\necho "srun A=$A $*"\n'
        'if [ "$CODE" = wait ]; then trap "exit 75" TERM; echo $$ >"$HERE/srun"; while :; do sleep 0.1; done; fi\n'
        'exit "$CODE"\n'
    )
    (programs / "scontrol").write_text('#!/usr/bin/env bash\necho "scontrol $*"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    script = tmp_path / "job.sh"
    script.write_text(given_input(dry_run("slurm", f"{RUN} --max-restarts 3 --workdir {tmp_path} --env A='x $y'")))
    surroundings = {"PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_ID": "17", "HERE": str(tmp_path)}

    def start(code, restarts=0):
        more = {"CODE": str(code), "SLURM_RESTART_COUNT": str(restarts)}
        return subprocess.Popen(
            ["bash", script], env={**os.environ, **surroundings, **more}, stdout=subprocess.PIPE, text=True
        )

    return start


@pytest.mark.parametrize(
    "code, restarts, again",
    [(0, 0, False), (75, 0, True), (75, 9, True), (1, 0, True), (1, 3, False), (2, 0, False)],
    ids=["finished", "saved", "saved often", "failed", "failed too often", "wrong input"],
)
def test_a_job_is_queued_again_until_the_run_is_finished(job, code, restarts, again):
    process = job(code, restarts)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert ("scontrol requeue 17" in printed) == again
    assert "srun A=x $y --label" in printed and "-m launch.worker train --config configs/flamingo_3b.py" in printed


def test_a_job_that_is_stopped_is_not_queued_again(job, tmp_path):
    process = job("wait")
    deadline = time.monotonic() + 20
    while not (tmp_path / "srun").exists() or not (tmp_path / "srun").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)  # scancel --batch --signal=USR1
    os.kill(int((tmp_path / "srun").read_text()), signal.SIGTERM)  # scancel --signal=TERM
    printed, _ = process.communicate(timeout=60)
    assert "not queued again" in printed and "scontrol" not in printed


def test_stop_sends_what_the_script_listens_to(nothing_runs):
    to_script, to_processes = commands(dry_run("slurm", "stop --name demo"))
    assert to_script == ["scancel", "--me", "--name=demo", "--batch", "--signal=USR1"]
    assert to_processes == ["scancel", "--me", "--name=demo", "--signal=TERM"]


@pytest.mark.parametrize(
    "words, said",
    [
        ("--workdir demo", "an absolute path without blanks"),
        ("--workdir gs://b/demo", "an absolute path without blanks"),
        ("--workdir /demo --time soon", "DAYS-HH:MM:SS"),
        ("--workdir /demo --gpus-per-node 0", "--gpus-per-node must be 1 or more"),
        ("--workdir /demo --sbatch=partition", "give an option of sbatch"),
    ],
)
def test_what_cannot_be_is_refused(nothing_runs, capsys, words, said):
    assert main(slurm.make_parser(), f"{RUN} {words}".split()) == 2
    assert said in capsys.readouterr().err
