"""Two programs timed in turns, each in a process of its own, so that what else the machine does meets both.

A process is told the name of a step on its standard input, runs it to its end and answers with the seconds it took.
A process of its own keeps each side's allocator, threads and device memory as its users have them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Work:
    """What a side can do: steps by name, each of which returns when all is computed.

    parameters: of the model, to see that both sides have the same.
    flops: of steps by name, as the model's mathematics has them; one side knowing them is enough.
    """

    steps: Mapping[str, Callable[[], Any]]
    parameters: int = 0
    flops: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Timed:
    """Seconds of one step on both sides, by rounds; `busy` are those of its threads together.

    Where other programs want the processors too, the busy seconds are the steadier.
    """

    ours: tuple[float, ...]
    torch: tuple[float, ...]
    ours_busy: tuple[float, ...]
    torch_busy: tuple[float, ...]
    flops: int | None = None

    @property
    def ratios(self) -> tuple[float, ...]:
        """How much faster ours is, round by round: torch's seconds over ours."""
        return tuple(torch / ours for ours, torch in zip(self.ours, self.torch, strict=True))

    @property
    def busy_ratios(self) -> tuple[float, ...]:
        """The same of the processors' time."""
        return tuple(torch / ours for ours, torch in zip(self.ours_busy, self.torch_busy, strict=True))


def settle(side: str, threads: int) -> None:
    """Makes this process the side "ours" or "torch" of a comparison on CPU, as its users have it."""
    if side == "torch":
        import torch

        torch.set_num_threads(threads)
    else:
        from mmjax.parallel.host import keep_freed_memory, leave_absent_tpu

        leave_absent_tpu()
        keep_freed_memory()


def cpu_environment(threads: int) -> dict[str, str]:
    """Variables for a comparison on CPU, of both sides."""
    # NPROC: as many threads for XLA. A flag that simulates devices would split them.
    return {"NPROC": str(threads), "OMP_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}


class SideError(Exception):
    """A side ended before it had answered."""


def serve(build: Callable[[], Work]) -> None:
    """Runs the steps that standard input names, and answers on standard output; ends with the input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    work = build()

    def answer(**figures):
        answers.write(json.dumps(figures) + "\n")
        answers.flush()

    answer(parameters=work.parameters, flops=dict(work.flops))
    for line in sys.stdin:
        step = work.steps[line.strip()]
        began, busy = time.perf_counter(), time.process_time()
        step()
        answer(seconds=time.perf_counter() - began, busy=time.process_time() - busy)


def compare(
    commands: Mapping[str, Sequence[str]],
    steps: Sequence[str],
    *,
    rounds: int,
    warmup: int = 1,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Timed]:
    """Times each of `steps` in each round on both sides, one after the other; `commands` of "ours" and "torch".

    Raises:
      SideError: a side failed, or the models differ in their number of parameters.
    """
    fields = [*commands, *(f"{name}_busy" for name in commands)]
    seconds: dict[str, dict[str, list[float]]] = {step: {field: [] for field in fields} for step in steps}
    with contextlib.ExitStack() as stack:
        sides = {name: stack.enter_context(_Side(name, command, environment)) for name, command in commands.items()}
        facts = {name: side.answer() for name, side in sides.items()}
        flops = {step: count for fact in facts.values() for step, count in fact["flops"].items()}
        counts = {name: fact["parameters"] for name, fact in facts.items()}
        if len(set(counts.values())) > 1:
            raise SideError(f"the models differ in their number of parameters: {counts}")
        for number in range(warmup + rounds):
            for step in steps:
                for name, side in sides.items():
                    took = side.run(step)
                    if number >= warmup:
                        seconds[step][name].append(took["seconds"])
                        seconds[step][f"{name}_busy"].append(took["busy"])
    return {
        step: Timed(**{field: tuple(times) for field, times in rows.items()}, flops=flops.get(step))
        for step, rows in seconds.items()
    }


class _Side:
    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None):
        self.name = name
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | dict(environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> _Side:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.process.stdin.close()
        if error is not None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise SideError(f"the side {self.name!r} ended with exit code {self.process.wait()}; see above")
        return json.loads(line)

    def run(self, step: str) -> dict[str, float]:
        self.process.stdin.write(step + "\n")
        self.process.stdin.flush()
        return self.answer()


def spread(values: Sequence[float], spelled: str = ".3g") -> str:
    """The median, and the smallest and largest."""
    median, low, high = (format(f(values), spelled) for f in (statistics.median, min, max))
    return f"{median} ({low} to {high})"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned."""
    widths = [max(len(row[place]) for row in (columns, *rows)) for place in range(len(columns))]
    lines = [columns, ["-" * width for width in widths], *rows]
    return "".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |\n"
        for line in lines
    )
