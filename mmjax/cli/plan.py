"""Plan a configuration for TPU chips that are not there: does it fit, what binds it, how long does a step take?

mmjax plan --config configs/flamingo_9b.py --topology v5p:4x8x8
mmjax plan --config paligemma_3b --topology v5e:16x16 --json plan.json --report plan.html
mmjax plan --config flamingo_80b --topology v5p:8x8x16 --audit     where each parameter lies; needs no compiler

The TPU compiler itself compiles the train step, prefill and decode for the topology, on this machine's CPU, and stops
before it generates code; with --full it goes on, and its estimate of cycles is told too. Chips are written by their
torus (v5e:16x16, v6e:8x8, v4:8x12x16, v5p:8x8x16, 7x:4x4x4) or by their number (v5e-256). A plan that does not fit
ends with exit code 2, after trying which change would make it fit. Plans are kept, and told at once the next time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from mmjax.cli.configs import add_config_argument, config_chips, load_config
from mmjax.core.config import nearest
from mmjax.core.errors import InputError
from mmjax.parallel.mesh import AXES, MeshConfig
from mmjax.planning.audit import audit_text
from mmjax.planning.moves import fitting_moves
from mmjax.planning.padding import filling
from mmjax.planning.plan import PROGRAMS, ProgramPlan, Request, plan
from mmjax.planning.programs import ServingShape
from mmjax.planning.search import search
from mmjax.planning.stored import PlanStore, default_folder
from mmjax.planning.text import cost_text, moves_text, plan_text, search_text
from mmjax.planning.topology import Topology, parse_topology
from mmjax.reporting.plan_page import PlannedPlace, write_plan_page
from mmjax.training.run import RunConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax plan`."""
    add_config_argument(parser, required=True)
    parser.add_argument(
        "--topology", metavar="CHIP:AxBxC", help="chips of a slice, e.g. v5p:8x8x16; else those the config is meant for"
    )
    parser.add_argument("--slices", type=int, default=1, metavar="N", help="slices, joined by the network (default 1)")
    parser.add_argument("--programs", metavar="A,B", help="of train,prefill,decode; by default all that the model has")
    parser.add_argument("--serve-rows", type=int, metavar="N", help="rows that are written at once (default one a way)")
    parser.add_argument(
        "--serve-mesh", metavar="AXIS=N,..", help="mesh of prefill and decode, e.g. tensor=8 (default that of training)"
    )
    parser.add_argument("--serve-new", type=int, default=64, metavar="N", help="tokens written after a prompt")
    parser.add_argument("--full", action="store_true", help="compile to the end, for the estimate of cycles (minutes)")
    parser.add_argument("--search", action="store_true", help="try batch x remat policy x strategy for the train step")
    parser.add_argument(
        "--tries", type=int, default=12, metavar="N", help="combinations that --search compiles at most"
    )
    parser.add_argument(
        "--share", type=float, default=0.7, metavar="X", help="of the roofline, for costs (default 0.7)"
    )
    parser.add_argument("--audit", action="store_true", help="list every parameter with its spec and bytes, and stop")
    parser.add_argument("--no-moves", action="store_true", help="do not try what would make it fit")
    parser.add_argument("--no-cache", action="store_true", help="plan anew, whatever was kept")
    parser.add_argument("--json", metavar="FILE", help="write the plan as JSON (- for standard output)")
    parser.add_argument("--report", metavar="FILE.html", help="write the plan as a page with charts")


def run(options: argparse.Namespace) -> int:
    """Plans; returns the exit code."""
    jax.config.update("jax_platforms", "cpu")  # no accelerator is touched
    chips = (options.topology,) if options.topology else config_chips(options.config)
    if not chips:
        raise InputError(f"{options.config} names no chips; give --topology, e.g. --topology v5e:16x16")
    topology = parse_topology(chips[0], options.slices)
    config = load_config(options.config, options.overrides)
    if options.report and (options.audit or options.search):
        raise InputError("--report draws one plan; leave out --audit and --search")
    if options.audit:
        print(audit_text(config, topology.device_count), end="")
        return 0
    if not 0.0 < options.share <= 1.0:
        raise InputError(f"--share must be above 0 and at most 1, not {options.share}")
    store = None if options.no_cache else PlanStore(default_folder())
    mesh = _serving_mesh(options.serve_mesh, config, topology)
    serving = _serving(options, config, topology, mesh or config.mesh)
    request = Request(config, topology, _programs(options, config), serving, options.full, mesh)
    if options.search:
        found = search(request, tries=options.tries, store=store, tell=lambda line: print(line, file=sys.stderr))
        print(search_text(found))
        if options.json:
            _write(options.json, {"search": [dataclasses.asdict(one) for one in found]})
        return 0 if any(one.plan.fits for one in found) else InputError.exit_code
    plans = plan(request, store=store)
    return _tell(options, request, plans, store)


def _programs(options, config: RunConfig) -> tuple[str, ...]:
    if options.programs is None:
        return PROGRAMS if config.model.known_family().gives == "text" else PROGRAMS[:1]
    names = tuple(name.strip() for name in options.programs.split(","))
    for name in names:
        if name not in PROGRAMS:
            raise InputError(f"--programs: {name!r} is not one of {', '.join(PROGRAMS)}")
    return names


def _serving_mesh(text: str | None, config: RunConfig, topology: Topology) -> MeshConfig | None:
    """`tensor=8,data=-1` as a mesh; the data axis takes what is left."""
    if text is None:
        return None
    sizes: dict[str, int] = {"data": -1, "slice": topology.slices}
    for part in text.split(","):
        axis, _, size = (word.strip() for word in part.partition("="))
        if axis not in AXES or not re.fullmatch(r"-1|[1-9]\d*", size):
            raise InputError(
                f"--serve-mesh: {part!r} is not AXIS=N with an axis of {', '.join(AXES)}{nearest(axis, AXES)}"
            )
        sizes[axis] = int(size)
    mesh = MeshConfig(**sizes)
    mesh.sizes(topology.device_count)
    return mesh


def _serving(options, config: RunConfig, topology: Topology, mesh: MeshConfig) -> ServingShape | None:
    if config.model.known_family().gives != "text":
        return None
    rows = options.serve_rows or math.prod(mesh.sizes(topology.device_count)[:3])
    return ServingShape(rows, config.data.length, options.serve_new)


def _tell(options, request: Request, plans: dict[str, ProgramPlan], store: PlanStore | None) -> int:
    to_stdout = options.json == "-"
    topology, mesh = request.topology, next(iter(plans.values())).mesh
    say = (lambda line: print(line, file=sys.stderr)) if to_stdout else print
    slices = f" x {topology.slices} slices" if topology.slices > 1 else ""
    say(f"{topology.name}{slices}: {topology.chip_count} chips, mesh {_sizes(mesh)} ({request.run.mesh.strategy})")
    record: dict[str, Any] = {name: dataclasses.asdict(one) for name, one in plans.items()}
    for name, one in plans.items():
        if one.mesh != mesh:
            say(f"mesh {_sizes(one.mesh)} ({request.of(name).run.mesh.strategy})")
        mesh = one.mesh
        say(plan_text(name, one))
        if not one.fits and not options.no_moves:
            tried = fitting_moves(request, name, store=store)
            record[name]["moves"] = [dataclasses.asdict(move) for move in tried]
            say(moves_text(name, tried))
    if "train" in plans and plans["train"].fits:
        record["cost"] = _cost(options.share, request, plans["train"])
        say(cost_text(record["cost"]))
    if options.json:
        _write(options.json, record)
    if options.report:
        _draw(options, request, record, next(iter(plans.values())).mesh)
    return 0 if all(one.fits for one in plans.values()) else InputError.exit_code


def _sizes(mesh: Mapping[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in mesh.items() if size > 1) or "one device"


def _cost(share: float, request: Request, train: ProgramPlan) -> dict[str, Any]:
    seconds = train.roofline_seconds / share
    rows = filling(request.run)
    rows_per_day = request.run.batch_size * 86400 / seconds
    return {
        "share": share,
        "step_seconds": seconds,
        "rows_per_day": rows_per_day,
        "examples_per_day": None if rows.examples_per_row is None else rows_per_day * rows.examples_per_row,
        "steps": request.run.total_steps,
        "chip_hours": request.run.total_steps * seconds * request.topology.chip_count / 3600,
        "padding_share": rows.padding_share,
        "padding_reason": rows.reason,
    }


def _draw(options, request: Request, record: dict[str, Any], mesh: dict[str, int]) -> None:
    topology, chip = request.topology, request.topology.chip
    place = PlannedPlace(
        config=options.config,
        topology=topology.name,
        slices=topology.slices,
        chips=topology.chip_count,
        devices=topology.device_count,
        mesh=mesh,
        strategy=request.run.mesh.strategy,
        peak_flops=chip.peak_flops / chip.devices,
        hbm_bandwidth=chip.hbm_bandwidth / chip.devices,
    )
    page = write_plan_page(options.report, place, {name: record[name] for name in request.programs}, record.get("cost"))
    print(f"report: {page}", file=sys.stderr)


def _write(target: str, record: dict[str, Any]) -> None:
    text = json.dumps(record, indent=2) + "\n"
    if target == "-":
        print(text, end="")
        return
    try:
        Path(target).expanduser().write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--json {target} cannot be written: {error.strerror}") from None
