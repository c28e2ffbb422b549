"""Start several processes on this machine, each with its own simulated devices, as if they were hosts of a pod.

    python -m launch.local --processes 2 --devices-per-process 4 -- \\
        train --config configs/flamingo_digits.py:tiny --workdir runs/two

Each process writes LOGS/process-I.log. SIGTERM and Ctrl-C are passed on, and the run ends as a pod's does. When a
process fails, the others have some time to notice it by themselves; then they are ended. The exit code is that of the
first process that failed, or 0.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.options import Parser
from mmjax.core.errors import InputError, MmjaxError

_POLL_SECONDS = 0.1
# After SIGTERM, how long a process may take before it is killed.
_END_SECONDS = 30.0
_LINES_SHOWN = 15


@dataclasses.dataclass(frozen=True)
class Process:
    """One process: what it runs, with which variables beside this one's, and where its output goes."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path

    def shell(self) -> str:
        """The process as a line to copy into a shell."""
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*variables, shlex.join(self.command), ">", shlex.quote(str(self.log)), "2>&1", "&"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `launch.local ARGUMENTS`; returns the exit code."""
    options = read_options(arguments)
    try:
        processes = plan(options)
        if options.dry_run:
            print(
                "\n".join([f"mkdir -p {shlex.quote(str(options.logs))}", *(one.shell() for one in processes), "wait"])
            )
            return 0
        return run(processes, grace_seconds=options.grace, signal_to=options.signal_one)
    except MmjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def plan(options: argparse.Namespace) -> list[Process]:
    """The processes to start.

    Raises:
      InputError: a number makes no sense, or there is nothing to run.
    """
    for name in ("processes", "devices_per_process"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be 1 or more, not {getattr(options, name)}")
    if options.signal_one is not None and not 0 <= options.signal_one < options.processes:
        raise InputError(f"--signal-one must be a process from 0 to {options.processes - 1}, not {options.signal_one}")
    if not options.command:
        raise InputError("say what to run, after --: python -m launch.local --processes 2 -- train --config C ...")
    coordinator = f"localhost:{options.port or _free_port()}"
    joined = ["--simulate-devices", str(options.devices_per_process)]
    joined += ["--coordinator", coordinator, "--processes", str(options.processes), "--process-id"]
    # Simulated devices of one process can deadlock where there are fewer threads than they need.
    environment = {"NPROC": "16", "PYTHONUNBUFFERED": "1"}
    return [
        Process(
            (sys.executable, "-m", "mmjax", *options.command, *joined, str(index)),
            environment,
            options.logs / f"process-{index}.log",
        )
        for index in range(options.processes)
    ]


def run(processes: Sequence[Process], *, grace_seconds: float, signal_to: int | None = None) -> int:
    """Runs all processes to their ends; returns the exit code of the first that failed, or 0.

    Args:
      grace_seconds: how long the others may go on after one has failed.
      signal_to: the only process that a signal is passed on to; all of them by default.
    """
    running: list[subprocess.Popen] = []

    def pass_on(number, frame):
        for process in running if signal_to is None else running[signal_to : signal_to + 1]:
            if process.poll() is None:
                process.send_signal(number)

    before = [(number, signal.signal(number, pass_on)) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        for process in processes:
            process.log.parent.mkdir(parents=True, exist_ok=True)
            with open(process.log, "wb") as log:
                # A session of its own: Ctrl-C reaches it through `pass_on` only.
                running.append(
                    subprocess.Popen(
                        process.command,
                        env={**os.environ, **process.environment},
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        print(f"started {len(running)} processes; the log of the first: {processes[0].log}", file=sys.stderr)
        failed = _first_failure(running)
        if failed is None:
            return 0
        _tell(failed, processes[failed], running[failed].returncode)
        _end_others(running, grace_seconds)
        code = running[failed].returncode
        return code if code > 0 else 128 - code
    finally:
        for number, handler in before:
            signal.signal(number, handler)
        _end_others(running, 0.0)


def _first_failure(running) -> int | None:
    """Waits until a process fails, or all have ended well."""
    while True:
        codes = [process.poll() for process in running]
        for index, code in enumerate(codes):
            if code:
                return index
        if None not in codes:
            return None
        time.sleep(_POLL_SECONDS)


def _end_others(running, grace_seconds) -> None:
    for seconds, end in ((grace_seconds, subprocess.Popen.terminate), (_END_SECONDS, subprocess.Popen.kill)):
        deadline = time.monotonic() + seconds
        while any(process.poll() is None for process in running) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        for process in running:
            if process.poll() is None:
                end(process)
    for process in running:
        process.wait()


def _tell(index, process, code) -> None:
    how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
    print(f"error: process {index} failed ({how}); the end of {process.log}:", file=sys.stderr)
    for line in process.log.read_text(errors="replace").splitlines()[-_LINES_SHOWN:]:
        print(f"  {line}", file=sys.stderr)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = Parser(
        prog="python -m launch.local", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="how many processes (default 2)")
    parser.add_argument(
        "--devices-per-process", type=int, default=1, metavar="D", help="simulated devices of each (default 1)"
    )
    parser.add_argument("--logs", type=Path, default=Path("logs"), metavar="DIR", help="where logs go (default logs)")
    parser.add_argument("--port", type=int, default=0, metavar="P", help="of the coordinator (default: a free one)")
    parser.add_argument(
        "--grace",
        type=float,
        default=120.0,
        metavar="S",
        help="seconds that the others may go on when one has failed (default 120, more than guards.heartbeat_seconds)",
    )
    parser.add_argument(
        "--signal-one", type=int, default=None, metavar="I", help="pass signals on to process I only (default: to all)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands; run nothing")
    parser.add_argument("command", nargs="*", metavar="-- VERB ...", help="what each runs: a verb of mmjax, arguments")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
