"""The plans of all configs for the chips that they are meant for: writes docs/plans.md.

    .venv/bin/python -m benchmarks.plans_table [--only CONFIG ...] [--no-cache]

Every program is compiled by the TPU compiler for the absent chips, so this needs `pip install mmjax[plan]` and some
minutes. With --only, the other rows stay as they are in the file.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from mmjax.cli.configs import config_chips, load_config
from mmjax.parallel.mesh import MeshConfig
from mmjax.planning.plan import PROGRAMS, ProgramPlan, Request, plan
from mmjax.planning.programs import ServingShape
from mmjax.planning.stored import PlanStore, default_folder
from mmjax.planning.topology import Topology, parse_topology
from mmjax.training.run import RunConfig

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "plans.md"
NEW_TOKENS = 64

HEAD = """# Plans

What every config needs on the chips that it is meant for, told by the TPU compiler for slices that were not there
([planning.md](planning.md) says what the figures mean). Nothing here was measured on a TPU: times are lower bounds, by
which a program cannot be faster than its FLOPs, its HBM traffic and what it sends let it be; MFU is the share of the
chips' peak that the model's FLOPs would be at that bound. State: bytes of parameters and optimizer on a device, as
a multiple of an even share. Bytes are of one device, GB are 10^9. Prefill and decode are of prompts as long as the rows
of training, one for every group of chips that holds the weights, in the dtype of the computation.

Written by `python -m benchmarks.plans_table`. A config's rows again, one by one:
`mmjax plan --config CONFIG:CHIPS --topology TOPOLOGY --serve-mesh tensor=8` (4 on fewer than 64 chips).

"""
FURTHER = """
## What the memory is made of, what is sent, and what it costs

Parts of HBM in GB: parameters, optimizer or cache, gradients, activations (and all else), data. Sent: kinds of
collectives by the mesh axes that they run along, those of more than 1% of the bytes. The estimate takes compute or
memory, and then communication, one after the other. Cost: chip-hours of the whole run at 70% of the roofline.

"""
SHARE = 0.7
COLUMNS = (
    "config",
    "chips",
    "mesh",
    "program",
    "rows",
    "HBM, of available",
    "to spare",
    "state",
    "model TFLOP",
    "computed",
    "HBM traffic",
    "sent in a slice, of compute",
    "bound by",
    "at least",
    "MFU",
)
FURTHER_COLUMNS = (
    "config",
    "chips",
    "program",
    "parameters",
    "optimizer, cache",
    "gradients",
    "activations",
    "data",
    "sent",
    "estimate",
    "rows a day",
    "chip-hours",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of each table."""

    config: str
    chips: str
    program: str
    cells: tuple[str, ...]
    further: tuple[str, ...]

    @property
    def text(self) -> str:
        """The line of the first table in Markdown."""
        return "| " + " | ".join((self.config, self.chips, self.cells[0], self.program, *self.cells[1:])) + " |"

    @property
    def further_text(self) -> str:
        """The line of the second."""
        return "| " + " | ".join((self.config, self.chips, self.program, *self.further)) + " |"


def meant() -> list[tuple[str, str]]:
    """(config, chips) of all config files that name chips."""
    files = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "common")
    return [(name, chips) for name in files for chips in config_chips(name)]


def rows_of(config: str, chips: str, store: PlanStore | None, programs: Sequence[str] = PROGRAMS) -> Iterator[Row]:
    """The lines of one config on its chips, one for each of the programs that it has.

    What serves lies on a mesh of its own: weights over a few chips, so that none are gathered for a token.
    """
    run, topology = load_config(f"{config}:{chips}", []), parse_topology(chips)
    serves = run.model.known_family().gives == "text"
    tensor = 8 if topology.device_count >= 64 else 4
    rows = topology.device_count // tensor
    request = Request(
        run,
        topology,
        tuple(name for name in programs if serves or name == "train"),
        ServingShape(rows, run.data.length, NEW_TOKENS) if serves else None,
        serving_mesh=MeshConfig(data=-1, tensor=tensor),
    )
    for name, one in plan(request, store=store).items():
        told = cells(
            one, run.batch_size if name == "train" else rows, topology.device_count, request.of(name).run.mesh.strategy
        )
        yield Row(config, f"{chips} ({topology.name})", name, told, further(one, name, run, topology))


def further(one: ProgramPlan, name: str, run: RunConfig, topology: Topology) -> tuple[str, ...]:
    """What follows the program's name in the second table."""
    held = (
        one.parts.get("optimizer", one.parts.get("cache", 0)),
        *(one.parts.get(part) for part in ("gradients", "activations", "data")),
    )
    parts = [f"{size / 1e9:.3f}" if size is not None else "" for size in (one.parts["parameters"], *held)]
    if not one.fits:
        return (*parts, *[""] * 4)
    sent = [
        (told["bytes"], f"{kind} {axes} {told['bytes'] / 1e9:.3g} GB")
        for kind, by_axes in one.collectives.items()
        for axes, told in by_axes.items()
    ]
    total = sum(size for size, _ in sent)
    large = [text for size, text in sorted(sent, reverse=True) if size > 0.01 * total]
    seconds = one.roofline_seconds / SHARE
    cost = [
        f"{run.batch_size * 86400 / seconds:,.0f}",
        f"{run.total_steps * seconds * topology.chip_count / 3600:,.0f}",
    ]
    return (
        *parts,
        ", ".join(large) or "nothing",
        f"{1e3 * one.estimated_seconds:.4g} ms",
        *(cost if name == "train" else ("", "")),
    )


def cells(one: ProgramPlan, rows: int, devices: int, strategy: str) -> tuple[str, ...]:
    """The mesh, and what follows the program's name."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in one.mesh.items() if size > 1)
    gb = f"{one.hbm_bytes / 1e9:.2f} of {one.available_bytes / 1e9:.1f} GB"
    if not one.fits:
        return (f"{mesh} ({strategy})", str(rows), gb, "does not fit", *[""] * 9)
    share = one.state_bytes * devices / one.whole_state_bytes
    compute, ici = one.bound_seconds["compute"], one.bound_seconds["ici"]
    return (
        f"{mesh} ({strategy})",
        f"{rows:,}",
        gb,
        f"{100 * one.spare:.0f}%",
        f"{one.state_bytes / 1e9:.3f} GB, {share:.3f}",
        f"{one.model_flops / 1e12:.4g}",
        f"{one.hardware_flops / 1e12:.4g}",
        f"{one.hbm_traffic_bytes / 1e9:.1f} GB",
        f"{1e3 * ici:.3g} ms, {100 * ici / compute:.0f}%",
        one.bound,
        f"{1e3 * one.roofline_seconds:.4g} ms",
        f"{100 * one.roofline_mfu:.1f}%",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Plans and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="CONFIG")
    parser.add_argument("--no-cache", action="store_true", help="compile anew what was planned before")
    options = parser.parse_args(arguments)
    store = None if options.no_cache else PlanStore(default_folder())
    kept = _kept() if options.only else {}
    lines, later, began = [], [], time.monotonic()
    before = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
    for config, chips in meant():
        if options.only and config not in options.only:
            first, second = kept.get((config, chips), ([], []))
            lines, later = lines + first, later + second
            continue
        for row in rows_of(config, chips, store):
            lines.append(row.text)
            later.append(row.further_text)
            print(f"{time.monotonic() - began:6.0f} s  {row.text}", file=sys.stderr, flush=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
    used = sum(one.ru_utime + one.ru_stime for one in after) - sum(one.ru_utime + one.ru_stime for one in before)
    took = f"\n{len(lines)} programs, planned in {time.monotonic() - began:.0f} s on {os.cpu_count()} cores, of which "
    took += f"{used:.0f} s of the processors' time were used.\n"
    first, second = _table(COLUMNS, lines), _table(FURTHER_COLUMNS, later)
    TABLE.write_text(HEAD + first + ("" if options.only else took) + FURTHER + second)


def _table(columns: Sequence[str], lines: Sequence[str]) -> str:
    return "\n".join(["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|", *lines]) + "\n"


def _kept() -> dict[tuple[str, str], tuple[list[str], list[str]]]:
    """The lines of both tables by (config, chips)."""
    found: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    place = 0
    for line in TABLE.read_text().splitlines() if TABLE.exists() else []:
        place += line.startswith("## ")
        match = re.match(r"\| (\w+) \| (\S+) \(", line)
        if match:
            found.setdefault((match[1], match[2]), ([], []))[place].append(line)
    return found


if __name__ == "__main__":
    main()
