"""Plans: what the programs of a configuration need on given chips, and what binds them."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.core.config import to_tree
from mmjax.core.quantities import quantity
from mmjax.parallel.mesh import AXES, MeshConfig
from mmjax.parallel.sharding import RULES
from mmjax.planning.compiler import CompiledProgram, OutOfMemory, compile_program
from mmjax.planning.flops import model_flops
from mmjax.planning.gathers import whole_gathers
from mmjax.planning.hlo import ProgramFacts, program_facts
from mmjax.planning.programs import ServingShape, check_serving
from mmjax.planning.roofline import Bounds, bounds
from mmjax.planning.stored import PlanStore
from mmjax.planning.topology import Topology, require_compiler
from mmjax.training.run import RunConfig

PROGRAMS = ("train", "prefill", "decode")


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be planned. full: compile to the end, for the compiler's estimate of cycles.

    serving_mesh: how prefill and decode lie on the chips; as the train step does where there is none.
    """

    run: RunConfig
    topology: Topology
    programs: tuple[str, ...]
    serving: ServingShape | None
    full: bool = False
    serving_mesh: MeshConfig | None = None

    def of(self, name: str) -> Request:
        """The request of one program, whose run has the mesh that the program has."""
        run = self.run
        if name != "train" and self.serving_mesh is not None:
            run = dataclasses.replace(run, mesh=self.serving_mesh)
        return dataclasses.replace(self, run=run, programs=(name,), serving_mesh=None)


@dataclasses.dataclass(frozen=True)
class ProgramPlan:
    """One program on one device; bytes, FLOPs and seconds of one run of it.

    fits: whether the compiler found room. hbm_bytes: the peak, of available_bytes. parts: what it is made of;
      "activations" are all that is not told apart: also scratch, and what layouts fill up.
    state_bytes: what stays from step to step (parameters and optimizer, or parameters and cache); whole_state_bytes:
      of all devices, each copy once. donated_bytes: the part of the arguments whose place a result takes.
    temp_bytes: activations, gradients and what is gathered.
    model_flops: an even share of the mathematics. hardware_flops: what the device computes by the compiled program,
      what is computed again and what several compute alike included. collectives: kind -> mesh axes -> count, bytes.
    estimated_seconds: by `estimated_by`, not measured. warnings: of collectives that the mesh makes dear, and of rows
      that it does not share. seconds: what planning took, by part, and of the processors.
    Where it does not fit, hbm_bytes is the compiler's figure of what it would need, hardware_flops an even share of the
    program as it is written, and what only the compiled program tells is None.
    """

    fits: bool
    hbm_bytes: int
    available_bytes: int
    parts: Mapping[str, int]
    state_bytes: int
    whole_state_bytes: int
    donated_bytes: int | None
    temp_bytes: int | None
    model_flops: float
    hardware_flops: float
    hbm_traffic_bytes: int | None
    collectives: Mapping[str, Mapping[str, Mapping[str, int]]] | None
    bound_seconds: Mapping[str, float] | None
    roofline_seconds: float | None
    bound: str | None
    roofline_mfu: float | None
    estimated_seconds: float | None
    estimated_by: str | None
    warnings: Sequence[str]
    mesh: Mapping[str, int]
    program_bytes: int | None
    whole_gathers: Sequence[str]
    seconds: Mapping[str, float]

    @property
    def spare(self) -> float:
        """Share of the HBM that is left."""
        return 1.0 - self.hbm_bytes / self.available_bytes


def plan(request: Request, *, store: PlanStore | None = None) -> dict[str, ProgramPlan]:
    """The plan of each program that is asked for, by name.

    Raises:
      InputError: libtpu is missing, a mesh does not fit the chips, or a model that writes no text is to decode.
      CompilerError: the compiler refused a program for another reason than memory.
    """
    require_compiler()
    if set(request.programs) != {"train"}:
        check_serving(request.run)
    serving = None if request.programs == ("train",) else request.serving  # counting what serves takes seconds
    keys = {name: None if store is None else store.key(_what(request.of(name), name)) for name in request.programs}
    kept = {name: None if store is None else store.read(key) for name, key in keys.items()}
    missing = [name for name, one in kept.items() if one is None]
    plans = {name: ProgramPlan(**one) for name, one in kept.items() if one is not None}
    if missing:
        # Each is compiled in a process of its own; meanwhile this one counts.
        with concurrent.futures.ThreadPoolExecutor(min(len(missing), os.cpu_count() or 1)) as pool:
            compiled = {name: pool.submit(_compile, request.of(name), name) for name in missing}
            flops = model_flops(request.run, serving)
            for name, result in compiled.items():
                plans[name] = _told(request.of(name), name, result.result(), flops[name])
                if store is not None:
                    store.write(keys[name], dataclasses.asdict(plans[name]))
    return {name: plans[name] for name in request.programs}


def _what(request: Request, name: str) -> dict[str, Any]:
    """Everything that a plan is made of."""
    return {
        "config": to_tree(request.run),
        "topology": [request.topology.name, request.topology.slices],
        "program": name,
        "serving": None if name == "train" else to_tree(request.serving),
        "full": request.full,
    }


def _compile(request: Request, name: str) -> CompiledProgram | OutOfMemory:
    arguments: dict[str, Any] = {
        "config": to_tree(request.run),
        "topology": request.topology.name,
        "slices": request.topology.slices,
    }
    if name != "train":
        arguments["shape"] = dataclasses.asdict(request.serving)
    return compile_program(f"mmjax.planning.programs:{name}", arguments, full=request.full)


def _told(request: Request, name: str, result: CompiledProgram | OutOfMemory, flops: int) -> ProgramPlan:
    common = _common(request, result, flops)
    if isinstance(result, OutOfMemory):
        nothing = dict.fromkeys(field.name for field in dataclasses.fields(ProgramPlan) if field.name not in common)
        return ProgramPlan(**{**nothing, **common, "warnings": _idle(request, name), "whole_gathers": ()})
    facts = program_facts(result.hlo, result.facts["mesh"], result.facts["across"])
    common["hardware_flops"] = facts.flops + result.facts["kernel_flops"] / request.topology.device_count
    limits = bounds(
        request.topology,
        result.facts["axes"],
        flops=common["hardware_flops"],
        hbm_bytes=facts.hbm_bytes,
        collectives=facts.collectives,
    )
    peak = request.topology.chip.peak_flops / request.topology.chip.devices
    estimate, by = _estimate(request, result, facts, limits)
    return ProgramPlan(
        **common,
        donated_bytes=facts.donated_bytes,
        temp_bytes=result.memory.temp_bytes,
        hbm_traffic_bytes=facts.hbm_bytes,
        collectives=_by_kind(facts),
        bound_seconds=dataclasses.asdict(limits),
        roofline_seconds=limits.seconds,
        bound=limits.binding,
        roofline_mfu=common["model_flops"] / peak / limits.seconds,
        estimated_seconds=estimate,
        estimated_by=by,
        warnings=_idle(request, name) + _warnings(facts),
        program_bytes=facts.text_bytes,
        whole_gathers=tuple(whole_gathers(facts, result.facts["stacked_pieces"])),
    )


def _common(request: Request, result: CompiledProgram | OutOfMemory, flops: int) -> dict[str, Any]:
    facts, devices = result.facts, request.topology.device_count
    used = result.memory.hbm_bytes if isinstance(result, CompiledProgram) else result.used_bytes
    fits = isinstance(result, CompiledProgram)
    available = request.topology.chip.slices.usable_hbm_bytes if fits else result.available_bytes
    parts = dict(facts["parts"])
    # The compiler does not tell gradients from activations, and may apply some gradients before others are there.
    rest = max(0, used - sum(parts.values()))
    if "gradient_bytes" in facts:
        parts["gradients"] = min(facts["gradient_bytes"], rest)
        rest -= parts["gradients"]
    parts["activations"] = rest
    return {
        "fits": fits,
        "hbm_bytes": used,
        "available_bytes": available,
        "parts": parts,
        "state_bytes": facts["state_bytes"],
        "whole_state_bytes": facts["whole_state_bytes"],
        "model_flops": flops / devices,
        "hardware_flops": facts["hardware_flops"] / devices,
        "mesh": facts["mesh"],
        "seconds": result.seconds,
    }


def _estimate(request, result, facts: ProgramFacts, limits: Bounds) -> tuple[float, str]:
    """Seconds, and what they are taken from."""
    clock = request.topology.chip.clock_hertz
    if result.full and facts.cycles and clock:
        kernels = result.facts["kernel_flops"] / request.topology.device_count
        peak = request.topology.chip.peak_flops / request.topology.chip.devices
        exposed = max(0.0, limits.ici - limits.compute) + max(0.0, limits.dcn - limits.compute)
        return facts.cycles / clock + kernels / peak + exposed, "the compiler's estimate of cycles, kernels at peak"
    return max(limits.compute, limits.hbm) + limits.ici + limits.dcn, "the bounds one after the other"


def _by_kind(facts: ProgramFacts) -> dict[str, dict[str, dict[str, int]]]:
    told: dict[str, dict[str, dict[str, int]]] = collections.defaultdict(dict)
    for one in facts.collectives:
        axes = "+".join(one.axes) or "none"
        entry = told[one.kind].setdefault(axes, {"count": 0, "bytes": 0})
        entry["count"] += one.times
        entry["bytes"] += one.total_bytes
    return {kind: dict(sorted(axes.items())) for kind, axes in sorted(told.items())}


def _idle(request: Request, name: str) -> tuple[str, ...]:
    """A warning where the rows cannot be shared by the mesh axes that are to share them."""
    run = request.run
    rows = run.batch_size // run.accumulate_steps if name == "train" else request.serving.rows
    sizes = dict(zip(AXES, run.mesh.sizes(request.topology.device_count), strict=True))
    ways = math.prod(sizes[axis] for axis in RULES["batch"])
    if rows % ways == 0:
        return ()
    axes = " x ".join(f"{axis} {sizes[axis]}" for axis in RULES["batch"] if sizes[axis] > 1)
    return (
        f"{rows} rows at a time do not divide by {axes}: several devices compute the same rows; give a multiple of "
        f"{ways} rows, or other mesh sizes",
    )


def _warnings(facts: ProgramFacts) -> tuple[str, ...]:
    """Mesh axes on which the compiler makes all-reduces of gathers or scatters, where that is much of what is sent."""
    wasted: collections.Counter = collections.Counter()
    for one in facts.flattened():
        wasted["+".join(one.axes), one.stands_for] += one.total_bytes
    total = sum(one.total_bytes for one in facts.collectives)
    return tuple(
        f"along {axes}, {quantity(size, 'B')} of {kind} are made by all-reduces, which send twice as much: lay the "
        "axis along one dimension of the torus (split it over two mesh axes)"
        for (axes, kind), size in wasted.most_common()
        if size > 0.05 * total
    )
