"""What to change where a plan does not fit: the known moves, tried with the compiler until some fit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from mmjax.objectives.kinds import OBJECTIVES
from mmjax.planning.flops import remat_everywhere
from mmjax.planning.plan import ProgramPlan, Request, plan
from mmjax.planning.stored import PlanStore
from mmjax.planning.topology import Topology, larger

# Compilations that are spent on the moves of one program.
_TRIES = 10


@dataclasses.dataclass(frozen=True)
class Move:
    """A change, as the settings that make it (for the command line), and the plan with it."""

    kind: str
    settings: str
    plan: ProgramPlan


def fitting_moves(request: Request, name: str, *, store: PlanStore | None = None) -> list[Move]:
    """For a program that does not fit: every move that was tried, those that fit among them.

    The train step: more recomputation, then smaller parts of the batch, then parameters over more axes, then a smaller
    batch, then more chips. What serves: fewer rows, then more chips. A kind of move ends with its first that fits, or
    with its last.
    """
    tried: list[Move] = []
    request = request.of(name)
    candidates = _of_training(request) if name == "train" else _of_serving(request)
    done: set[str] = set()
    for kind, settings, changed in candidates:
        if kind in done or len(tried) >= _TRIES:
            continue
        result = plan(dataclasses.replace(changed, programs=(name,)), store=store)[name]
        tried.append(Move(kind, settings, result))
        if result.fits:
            done.add(kind)
    return tried


def _of_training(request: Request) -> Iterator[tuple[str, str, Request]]:
    run = request.run
    changed = remat_everywhere(run.model.config, "full")
    if changed != run.model.config:
        settings = " ".join(f"--config.model.config.{path}=full" for path in _remat_paths(run.model.config))
        yield "remat policy", settings, _with(request, model=dataclasses.replace(run.model, config=changed))
    ways = math.prod(run.mesh.sizes(request.topology.device_count)[:3])
    parts = 2 * run.accumulate_steps
    over_parts = OBJECTIVES[type(run.objective)].over_parts
    while over_parts and run.batch_size % parts == 0 and (run.batch_size // parts) % ways == 0 and parts <= 64:
        yield "accumulation", f"--config.accumulate_steps={parts}", _with(request, accumulate_steps=parts)
        parts *= 2
    if run.mesh.strategy == "hybrid":
        mesh = dataclasses.replace(run.mesh, strategy="full")
        yield "strategy", "--config.mesh.strategy=full", _with(request, mesh=mesh)
    rows = run.batch_size // 2
    while rows and rows % (ways * run.accumulate_steps) == 0:
        yield "batch", f"--config.batch_size={rows}", _with(request, batch_size=rows)
        rows //= 2
    yield from _more_chips(request)


def _of_serving(request: Request) -> Iterator[tuple[str, str, Request]]:
    rows = request.serving.rows // 2
    while rows:
        serving = dataclasses.replace(request.serving, rows=rows)
        yield "rows", f"--serve-rows {rows}", dataclasses.replace(request, serving=serving)
        rows //= 2
    yield from _more_chips(request)


def _more_chips(request: Request) -> Iterator[tuple[str, str, Request]]:
    for topology in larger(request.topology):
        mesh = _stretched(request.run.mesh, topology)
        stretched = None if mesh is None else dataclasses.replace(request.run.mesh, **mesh)
        # Rows that the chips could not share would be computed by several.
        if stretched and not request.run.batch_size % math.prod(stretched.sizes(topology.device_count)[:3]):
            settings = " ".join(
                [f"--topology {topology.name}", *(f"--config.mesh.{axis}={size}" for axis, size in mesh.items())]
            )
            changed = _with(request, mesh=stretched)
            yield "chips", settings, dataclasses.replace(changed, topology=topology)


def _stretched(mesh: Any, topology: Topology) -> dict[str, int] | None:
    """The sizes of a mesh for more chips: the fsdp axis grows."""
    sizes = {axis: getattr(mesh, axis) for axis in ("slice", "data", "fsdp", "tensor", "sequence")}
    if -1 in sizes.values():
        return {}
    rest = math.prod(size for axis, size in sizes.items() if axis != "fsdp")
    return {"fsdp": topology.device_count // rest} if topology.device_count % rest == 0 else None


def _with(request: Request, **changes: Any) -> Request:
    return dataclasses.replace(request, run=dataclasses.replace(request.run, **changes))


def _remat_paths(tree: Any, path: str = "") -> list[str]:
    if not isinstance(tree, Mapping):
        return []
    return [
        found
        for key, value in tree.items()
        for found in ([f"{path}remat"] if key == "remat" and value != "full" else _remat_paths(value, f"{path}{key}."))
    ]
