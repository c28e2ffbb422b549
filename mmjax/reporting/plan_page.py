"""The page of a plan: what each program needs of a device, what binds it, and what it costs.

Plans come as plain dictionaries, with the keys that `mmjax plan --json` writes.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mmjax.core.errors import InputError
from mmjax.core.quantities import quantity, seconds_text
from mmjax.reporting.page import render
from mmjax.reporting.roofline_chart import NAMES, bounds_chart, roofline_chart
from mmjax.reporting.svg import format_number, percent, tag

# Parts of the memory: their colours, and what they are in a few words.
_PARTS = {
    "parameters": (0, "parameters"),
    "optimizer": (5, "optimizer state"),
    "cache": (5, "cache of keys and values"),
    "gradients": (1, "gradients"),
    "activations": (2, "activations, scratch and what is gathered"),
    "data": (4, "batch"),
}
_BAR_WIDTH, _BAR_HEIGHT = 1000.0, 30.0


@dataclasses.dataclass(frozen=True)
class PlannedPlace:
    """What a plan is for. FLOP/s (peak) and bytes/s (of HBM) are those of one device."""

    config: str
    topology: str
    slices: int
    chips: int
    devices: int
    mesh: Mapping[str, int]
    strategy: str
    peak_flops: float
    hbm_bandwidth: float


def write_plan_page(
    path: str | os.PathLike,
    place: PlannedPlace,
    programs: Mapping[str, Mapping[str, Any]],
    cost: Mapping[str, Any] | None,
) -> pathlib.Path:
    """Writes the page to `path` and returns it.

    programs: by name, the fields of a `ProgramPlan`, and "moves" where it does not fit; cost: of the train step.

    Raises:
      InputError: `path` cannot be written.
    """
    path = pathlib.Path(path).expanduser()
    page = render("plan.html", _view(place, programs, cost))
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"the page {path} cannot be written: {error.strerror}; name another file") from None
    return path


def _view(place: PlannedPlace, programs, cost) -> dict[str, Any]:
    """Everything that the template shows."""
    sizes = [f"{axis} {size}" for axis, size in place.mesh.items() if size > 1]
    where = place.topology + (f" x {place.slices} slices" if place.slices > 1 else "")
    return {
        "title": f"{pathlib.PurePath(place.config).name} on {where}",
        "place": place,
        "mesh": " x ".join(sizes) or "one device",
        "written": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "tiles": _tiles(programs, cost),
        "cost": _cost_facts(cost) if cost else [],
        "programs": [_program(name, plan, place) for name, plan in programs.items()],
    }


def _program(name: str, plan: Mapping[str, Any], place: PlannedPlace) -> dict[str, Any]:
    used, available = plan["hbm_bytes"], plan["available_bytes"]
    if plan["fits"]:
        verdict = f"fits, {percent(1 - used / available)} to spare"
    else:
        verdict = f"does not fit: {quantity(used - available, 'B')} too much"
    view = {
        "name": name,
        "fits": plan["fits"],
        "verdict": verdict,
        "warnings": [*plan["warnings"], *_gather_warnings(plan["whole_gathers"])],
        "used": quantity(used, "B"),
        "available": quantity(available, "B"),
        "memory": memory_bar(name, plan["parts"], available),
        "legend": _legend(plan["parts"], used),
        "facts": _facts(plan),
        "charts": [],
        "collectives": [],
        "moves": [_move(move) for move in plan.get("moves", ())],
    }
    if plan["fits"]:
        estimate = plan["estimated_seconds"], plan["estimated_by"]
        view["charts"] = [
            bounds_chart(plan["bound_seconds"], plan["bound"], *estimate),
            roofline_chart(name, plan, place.peak_flops, place.hbm_bandwidth),
        ]
        view["collectives"] = collective_rows(plan["collectives"])
    return view


def memory_bar(name: str, parts: Mapping[str, int], available: int) -> Markup:
    """The parts side by side, against what a device has; what is above it stands behind the line."""
    used = sum(parts.values())
    scale = _BAR_WIDTH / max(used, available, 1)
    drawn = [tag("rect", x=0, y=0.0, width=available * scale, height=_BAR_HEIGHT, class_="room")]
    place = 0.0
    for part, size in _ordered(parts):
        colour, words = _PARTS[part]
        box = {"x": place * scale, "y": 0.0, "width": size * scale, "height": _BAR_HEIGHT}
        drawn.append(tag("rect", tag("title", f"{words}: {quantity(size, 'B')}"), class_=f"fill c{colour}", **box))
        place += size
    if used > available:
        limit = available * scale
        over = {"x": limit, "y": 0.0, "width": _BAR_WIDTH - limit, "height": _BAR_HEIGHT}
        drawn += [
            tag("rect", tag("title", f"too much: {quantity(used - available, 'B')}"), class_="over", **over),
            tag("line", x1=limit, x2=limit, y1=-4.0, y2=_BAR_HEIGHT + 4, class_="limit"),
        ]
    text = f"memory of {name}: {quantity(used, 'B')} of {quantity(available, 'B')}"
    box = f"0 0 {_BAR_WIDTH:g} {_BAR_HEIGHT:g}"
    return tag("svg", *drawn, viewBox=box, preserveAspectRatio="none", role="img", aria_label=text, class_="memory")


def _ordered(parts: Mapping[str, int]) -> list[tuple[str, int]]:
    """What stays first, as it lies in the legend."""
    return [(part, parts[part]) for part in _PARTS if part in parts]


def _legend(parts: Mapping[str, int], used: int) -> list[dict[str, Any]]:
    return [
        {
            "colour": _PARTS[part][0],
            "name": _PARTS[part][1],
            "size": quantity(size, "B"),
            "share": percent(size / max(used, 1)),
        }
        for part, size in _ordered(parts)
    ]


def collective_rows(collectives: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[dict[str, Any]]:
    """One row for each kind and axis, the largest first, with its share of all that is sent."""
    total = sum(told["bytes"] for by_axes in collectives.values() for told in by_axes.values())
    rows = [
        {
            "kind": kind,
            "axes": axes.replace("+", " + "),
            "count": told["count"],
            "bytes": told["bytes"],
            "size": quantity(told["bytes"], "B"),
            "share": told["bytes"] / total if total else 0.0,
        }
        for kind, by_axes in collectives.items()
        for axes, told in by_axes.items()
    ]
    return sorted(rows, key=lambda row: -row["bytes"])


def _gather_warnings(gathers: Sequence[str]) -> list[str]:
    return [f"all layers of a parameter are gathered at once, outside the loop over layers: {one}" for one in gathers]


def _facts(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values; what only a program that fits tells is left out of others."""
    found = [
        ("model FLOPs", quantity(plan["model_flops"], "FLOP")),
        ("FLOPs with what is computed again", quantity(plan["hardware_flops"], "FLOP")),
        ("state", quantity(plan["state_bytes"], "B")),
        ("state of all devices, each copy once", quantity(plan["whole_state_bytes"], "B")),
    ]
    if plan["fits"]:
        found += [
            ("donated", quantity(plan["donated_bytes"], "B")),
            ("HBM traffic", quantity(plan["hbm_traffic_bytes"], "B")),
            ("FLOPs a byte of HBM traffic", format_number(_intensity(plan))),
            ("at least a step", f"{seconds_text(plan['roofline_seconds'])}, bound by {NAMES[plan['bound']]}"),
            ("MFU at most", percent(plan["roofline_mfu"])),
            ("estimate, not measured", seconds_text(plan["estimated_seconds"])),
            ("the program's text", quantity(plan["program_bytes"], "B")),
        ]
    return [*found, ("compiled in", seconds_text(plan["seconds"]["total"]))]


def _intensity(plan: Mapping[str, Any]) -> float:
    return plan["hardware_flops"] / plan["hbm_traffic_bytes"] if plan["hbm_traffic_bytes"] else math.inf


def _move(move: Mapping[str, Any]) -> dict[str, Any]:
    plan = move["plan"]
    return {
        "kind": move["kind"],
        "settings": move["settings"],
        "fits": plan["fits"],
        "memory": f"{quantity(plan['hbm_bytes'], 'B')} of {quantity(plan['available_bytes'], 'B')}",
    }


def _tiles(programs: Mapping[str, Mapping[str, Any]], cost: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """The figures that one looks for first: those of the train step, or else of the first program."""
    name = "train" if "train" in programs else next(iter(programs))
    plan = programs[name]
    tiles = [
        {
            "name": "HBM",
            "of": name,
            "figure": percent(plan["hbm_bytes"] / plan["available_bytes"], 0),
            "text": f"{quantity(plan['hbm_bytes'], 'B')} of {quantity(plan['available_bytes'], 'B')} a device",
        }
    ]
    if plan["fits"]:
        tiles += [
            {
                "name": "MFU at most",
                "of": name,
                "figure": percent(plan["roofline_mfu"]),
                "text": f"bound by {NAMES[plan['bound']]}",
            },
            {
                "name": "step at least",
                "of": name,
                "figure": seconds_text(plan["roofline_seconds"]),
                "text": f"estimate {seconds_text(plan['estimated_seconds'])}, not measured",
            },
        ]
    if cost:
        tiles.append(
            {
                "name": "chip-hours",
                "of": "run",
                "figure": f"{cost['chip_hours']:,.0f}",
                "text": f"for {cost['steps']:,} steps at {percent(cost['share'], 0)} of the roofline",
            }
        )
    return tiles


def _cost_facts(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    padding = cost["padding_share"]
    return [
        ("assumed share of the roofline", percent(cost["share"], 0)),
        ("a step", seconds_text(cost["step_seconds"])),
        ("rows a day", f"{cost['rows_per_day']:,.0f}"),
        *([] if cost["examples_per_day"] is None else [("examples a day", f"{cost['examples_per_day']:,.0f}")]),
        ("steps", f"{cost['steps']:,}"),
        ("chip-hours", f"{cost['chip_hours']:,.0f}"),
        ("padding", f"not known: {cost['padding_reason']}" if padding is None else f"{percent(padding)} of tokens"),
    ]
