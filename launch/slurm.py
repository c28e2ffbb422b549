"""Runs on the GPU nodes of a SLURM cluster, one process a GPU, queued again until the run is finished.

    python -m launch.slurm submit --name demo --nodes 4 --gpus-per-node 8 --config configs/flamingo_3b.py \\
        --workdir /shared/runs/demo --sbatch=--partition=gpu -- --config.batch_size=512

The checkout and the workdir lie on a disk that all nodes share, and the checkout has its environment: `make env`, then
`.venv/bin/pip install 'jax[cuda12]'`. Every verb takes --dry-run.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path

from launch.options import Parser, add_run_arguments, add_verb, main, render, run_of
from launch.steps import Step
from launch.worker import STOPPED
from mmjax.core.errors import InputError

_TIME = re.compile(r"\d+|\d+:\d{2}(:\d{2})?|\d+-\d+(:\d{2}){0,2}")


def make_parser() -> Parser:
    """The command line of `python -m launch.slurm`."""
    parser = Parser(
        prog="python -m launch.slurm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    submit = add_verb(
        verbs,
        "submit",
        "queue the run, or queue it again where it was saved",
        plan_submit,
        asks="Queue {name} on {nodes} node(s) of {gpus_per_node} GPUs?",
    )
    add_run_arguments(submit, workdir="a folder on the shared disk", restarts=20)
    submit.add_argument("--nodes", type=int, required=True, metavar="N")
    submit.add_argument("--gpus-per-node", type=int, default=8, metavar="N")
    submit.add_argument(
        "--time", default="24:00:00", help="the job's time limit, as sbatch takes it (default 24:00:00)"
    )
    submit.add_argument(
        "--save-seconds", type=int, default=300, metavar="S", help="how long before that the run is saved (default 300)"
    )
    submit.add_argument(
        "--sbatch", action="append", default=[], metavar="OPTION", help="more for sbatch, such as --sbatch=--account=A"
    )
    add_verb(verbs, "status", "show the job", plan_status)
    add_verb(verbs, "stop", "have the run saved and ended; submit starts it again", plan_stop, asks="Stop {name}?")
    return parser


def plan_submit(options: argparse.Namespace) -> list[Step]:
    """The folder of the log, and the script given to sbatch."""
    run = run_of(options)
    hint = "sbatch is there on the cluster's login nodes"
    return [
        Step("make the workdir", ("mkdir", "-p", run.workdir)),
        Step("queue the run", ("sbatch",), stdin=script(options), hint=hint),
    ]


def script(options: argparse.Namespace) -> str:
    """The batch script."""
    for name in ("nodes", "gpus_per_node", "save_seconds"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be 1 or more, not {getattr(options, name)}")
    if not _TIME.fullmatch(options.time):
        raise InputError(f"--time {options.time}: give minutes, MM:SS, HH:MM:SS or DAYS-HH:MM:SS")
    if not Path(options.workdir).is_absolute() or re.search(r"\s", options.workdir):
        raise InputError(
            f"--workdir {options.workdir!r}: give an absolute path without blanks, on a disk that all nodes share"
        )
    for option in options.sbatch:
        if not option.startswith("--") or "\n" in option:
            raise InputError(f"--sbatch {option!r}: give an option of sbatch, such as --sbatch=--partition=gpu")
    run = run_of(options)
    return render(
        "sbatch.sh.j2",
        name=run.name,
        nodes=options.nodes,
        gpus=options.gpus_per_node,
        time=options.time,
        log=f"{run.workdir}/slurm-%j.log",
        save_seconds=options.save_seconds,
        more=options.sbatch,
        checkout=shlex.quote(str(Path.cwd())),
        environment={key: shlex.quote(value) for key, value in run.environment.items()},
        arguments=shlex.join(run.command),
        stopped=STOPPED,
        max_restarts=run.restarts,
    )


def plan_status(options: argparse.Namespace) -> list[Step]:
    """The job's line in the queue."""
    return [Step("show the job", ("squeue", "--me", f"--name={options.name}"))]


def plan_stop(options: argparse.Namespace) -> list[Step]:
    """Tells the script not to queue the job again, then SIGTERM to the processes."""
    signal = ("scancel", "--me", f"--name={options.name}")
    return [
        Step("tell the script not to queue the run again", (*signal, "--batch", "--signal=USR1")),
        Step("stop the run, which saves first", (*signal, "--signal=TERM")),
    ]


if __name__ == "__main__":
    sys.exit(main(make_parser()))
