"""Batch x remat policy x strategy: which of them trains fastest among those that fit.

Every combination has a bound that costs little: the time that its FLOPs take at least, counted on the step as it is
traced with each policy. Combinations are compiled in that order; what cannot beat the best found so far, or needs more
memory than one that did not fit, is passed over.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

from mmjax.core.quantities import quantity, seconds_text
from mmjax.parallel.mesh import MeshConfig
from mmjax.planning.flops import remat_everywhere, step_flops
from mmjax.planning.plan import ProgramPlan, Request, plan
from mmjax.planning.stored import PlanStore
from mmjax.planning.topology import require_compiler
from mmjax.training.run import RunConfig

# From what keeps most to what keeps least.
POLICIES = ("none", "dots_attention", "dots", "attention", "full")
_BATCHES = (4.0, 2.0, 1.0, 0.5, 0.25)


@dataclasses.dataclass(frozen=True)
class Combination:
    """One combination; `seconds_per_row` is its bound, over all chips."""

    rows: int
    remat: str
    mesh: MeshConfig
    seconds_per_row: float


@dataclasses.dataclass(frozen=True)
class Tried:
    """A combination and its plan."""

    combination: Combination
    plan: ProgramPlan

    @property
    def seconds_per_row(self) -> float | None:
        """By the roofline of the compiled program; None where it does not fit."""
        seconds = self.plan.roofline_seconds
        return None if seconds is None else seconds / self.combination.rows


def search(
    request: Request, *, tries: int, store: PlanStore | None = None, tell: Callable[[str], None] = lambda line: None
) -> list[Tried]:
    """Plans up to `tries` combinations of the train step; those that fit first, the fastest (a row) first."""
    require_compiler()
    combinations = _combinations(request)
    tried: list[Tried] = []
    best = math.inf
    for combination in combinations:
        if len(tried) >= tries:
            break
        if combination.seconds_per_row >= best or _hopeless(combination, tried):
            continue
        result = plan(_request(request, combination), store=store)["train"]
        tried.append(Tried(combination, result))
        best = min([best, *(one.seconds_per_row for one in tried if one.plan.fits)])
        told = f"{one_line(combination)}: "
        if result.fits:
            told += f"{quantity(result.hbm_bytes, 'B')}, {seconds_text(tried[-1].seconds_per_row)} a row"
        else:
            told += f"does not fit, {quantity(result.hbm_bytes, 'B')} of {quantity(result.available_bytes, 'B')}"
        tell(f"{len(tried)} of at most {tries}: {told}")
    return sorted(tried, key=lambda one: (not one.plan.fits, one.seconds_per_row or one.plan.hbm_bytes))


def one_line(combination: Combination) -> str:
    """A combination in the words of the command line."""
    sizes = " ".join(
        f"{axis}={getattr(combination.mesh, axis)}"
        for axis in ("slice", "data", "fsdp", "tensor", "sequence")
        if getattr(combination.mesh, axis) != 1
    )
    return f"batch {combination.rows}, remat {combination.remat}, {sizes} ({combination.mesh.strategy})"


def _combinations(request: Request) -> list[Combination]:
    run, topology = request.run, request.topology
    flops = {remat: step_flops(run, remat) / run.batch_size for remat in POLICIES}
    peak = topology.chip.peak_flops * topology.chip_count
    found = []
    for share, remat, mesh in itertools.product(_BATCHES, POLICIES, meshes(request)):
        rows = int(run.batch_size * share)
        ways = mesh.slice * mesh.data * mesh.fsdp
        if rows == run.batch_size * share and rows % (ways * run.accumulate_steps) == 0:
            found.append(Combination(rows, remat, mesh, flops[remat] / peak))
    return sorted(found, key=lambda one: (one.seconds_per_row, -one.rows))


def meshes(request: Request) -> list[MeshConfig]:
    """The run's own mesh, and those that lie along the torus with parameters over a whole slice."""
    own, topology = request.run.mesh, request.topology
    devices = topology.device_count // topology.slices
    sizes = dict(zip(("slice", "data", "fsdp", "tensor", "sequence"), own.sizes(topology.device_count), strict=True))
    found = [MeshConfig(**sizes, strategy=own.strategy)]
    shape = (*topology.shape[:-1], topology.shape[-1] * topology.chip.devices)
    for tensor in (1, 2, 4, 8):
        for dimensions in range(1, len(shape)):
            fsdp = math.prod(shape[dimensions:])
            if devices % (fsdp * tensor) == 0:
                data = devices // (fsdp * tensor)
                found.append(MeshConfig(topology.slices, data, fsdp, tensor, sizes["sequence"], "full"))
    fitting = [mesh for mesh in found if math.prod(mesh.sizes(topology.device_count)) == topology.device_count]
    return list(dict.fromkeys(fitting))


def _hopeless(combination: Combination, tried: Sequence[Tried]) -> bool:
    """Whether one that keeps no more of each row, on the same mesh, did not fit, and would not with as few rows.

    What does not grow with the rows is at least the state and its gradients; the rest is taken to grow with them.
    """
    order = POLICIES
    return any(
        not one.plan.fits
        and one.combination.mesh == combination.mesh
        and order.index(one.combination.remat) >= order.index(combination.remat)
        and _least_bytes(one, combination.rows) > one.plan.available_bytes
        for one in tried
    )


def _least_bytes(tried: Tried, rows: int) -> float:
    """What `rows` rows need, by what was tried with others."""
    fixed = sum(tried.plan.parts.get(part, 0) for part in ("parameters", "optimizer", "gradients"))
    return fixed + (tried.plan.hbm_bytes - fixed) * rows / tried.combination.rows


def _request(request: Request, combination: Combination) -> Request:
    return dataclasses.replace(request, run=_run(request.run, combination), programs=("train",))


def _run(run: RunConfig, combination: Combination) -> RunConfig:
    model = dataclasses.replace(run.model, config=remat_everywhere(run.model.config, combination.remat))
    return dataclasses.replace(run, batch_size=combination.rows, mesh=combination.mesh, model=model)
