"""Commands one after the other: printed for `--dry-run`, otherwise run with progress up to the first that fails."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from mmjax.core.errors import InputError, MmjaxError

_HERE_DOCUMENT_END = "END_OF_INPUT"


class LaunchError(MmjaxError):
    """A command of a launch failed."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A command and what it is for.

    stdin: text that the command reads. wait_for: run the command again until it prints this word (`fail_on`: the words
    after which waiting is useless). hint: what to do when it fails.
    """

    what: str
    command: tuple[str, ...]
    stdin: str = ""
    hint: str = ""
    wait_for: str = ""
    fail_on: tuple[str, ...] = ()
    every_seconds: float = 30.0

    def shell(self) -> str:
        """The step as lines to copy into a shell."""
        line = shlex.join(self.command)
        if self.stdin:
            return f"{line} <<'{_HERE_DOCUMENT_END}'\n{self.stdin.rstrip()}\n{_HERE_DOCUMENT_END}"
        if self.wait_for:
            return f'until [ "$({line})" = {shlex.quote(self.wait_for)} ]; do sleep {self.every_seconds:g}; done'
        return line


def print_steps(steps: Iterable[Step]) -> None:
    """Prints each step as a comment and its command."""
    for step in steps:
        print(f"# {step.what}{_failing(step)}")
        print(step.shell())


def run_steps(steps: Sequence[Step]) -> None:
    """Runs the steps in order; their output goes where this process's goes.

    Raises:
      LaunchError: a command failed, or cannot be found; it is named, and those after it are not run.
    """
    for number, step in enumerate(steps, 1):
        print(f"[{number}/{len(steps)}] {step.what}", file=sys.stderr, flush=True)
        run_step(step)


def run_step(step: Step) -> None:
    """Runs one step. Raises LaunchError as `run_steps` does."""
    if step.wait_for:
        _wait(step)
        return
    print(f"  {shlex.join(step.command)}", file=sys.stderr, flush=True)
    code = _call(step, capture=False).returncode
    if code:
        raise LaunchError(f"{shlex.join(step.command)} failed with exit code {code}{_hint(step)}")


def read_step(step: Step) -> str:
    """What the step's command prints, without the white space around it. Raises LaunchError if it fails."""
    result = _call(step, capture=True)
    if result.returncode:
        raise LaunchError(f"{shlex.join(step.command)} failed with exit code {result.returncode}{_hint(step)}")
    return result.stdout.strip()


def confirm(question: str, *, yes: bool, ask: Callable[[str], str] = input) -> None:
    """Asks before something that costs or deletes.

    Raises:
      InputError: the answer is not yes, or nobody can be asked.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError(f"{question} Nobody is here to ask: give --yes, or --dry-run to see the commands")
    if ask(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise InputError("not confirmed; nothing was done")


def _wait(step: Step) -> None:
    began, seen = time.monotonic(), ""
    while True:
        state = read_step(step)
        if state == step.wait_for:
            return
        if state in step.fail_on:
            raise LaunchError(f"{step.what}: it is {state}, not {step.wait_for}{_hint(step)}")
        if state != seen:
            minutes = (time.monotonic() - began) / 60
            print(f"  {state or 'nothing yet'} ({minutes:.0f} min)", file=sys.stderr, flush=True)
            seen = state
        time.sleep(step.every_seconds)


def _call(step: Step, *, capture: bool) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            step.command, input=step.stdin or None, text=True, stdout=subprocess.PIPE if capture else None, check=False
        )
    except FileNotFoundError:
        raise LaunchError(
            f"{step.command[0]} is not installed here (it is needed to {step.what}); --dry-run prints the commands "
            "for a machine that has it"
        ) from None


def _failing(step: Step) -> str:
    return f" (ends with an error if it is {' or '.join(step.fail_on)})" if step.fail_on else ""


def _hint(step: Step) -> str:
    return f"; {step.hint}" if step.hint else ""
