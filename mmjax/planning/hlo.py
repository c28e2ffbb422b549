"""What a compiled program does on one device: collectives by mesh axis, HBM traffic, cycles, donated arguments.

All figures are per device and for one run of the program: a loop's body counts as often as it runs, and every branch of
a condition once. An instruction within a fusion moves nothing by itself, except a collective.

    facts = program_facts(compiled.hlo, {"fsdp": 16, "tensor": 4})
    facts.collective_bytes()  ->  {("all-gather", ("fsdp",)): 1.2e9, ...}
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from mmjax.planning.hlo_text import (
    Computation,
    Instruction,
    Module,
    array_shapes,
    parse_module,
    replica_groups,
    source_target_pairs,
    total_bytes,
    trip_count,
)
from mmjax.planning.products import product_flops
from mmjax.planning.traffic import begins_collective, hbm_traffic

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_ALIAS = re.compile(r"\((\d+), \{([\d, ]*)\}")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the program.

    bytes: of the larger side on one device, once: what is gathered, or what goes into a reduction; for others, what
      is sent.
    axes: the mesh axes over which it runs, in the mesh's order; size: how many devices take part in one group.
    between_slices: it runs over the data-centre network.
    stands_for: "all-gather" or "reduce-scatter", where the program asks for one and the compiler makes an all-reduce
      of it (zero-padded before, or sliced after), which sends twice the bytes: the axis lies badly on the torus.
    times: how often it runs; loops: how many loops it stands in.
    shapes: of the arrays that it gives on one device.
    """

    name: str
    kind: str
    bytes: int
    axes: tuple[str, ...]
    size: int
    times: int
    loops: int
    op_name: str
    between_slices: bool = False
    stands_for: str | None = None
    shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def total_bytes(self) -> int:
        """Bytes of all the times that it runs."""
        return self.bytes * self.times


@dataclasses.dataclass(frozen=True)
class Argument:
    """One parameter of the program: its name in the traced function (`state['params']['w']`) and bytes."""

    name: str
    bytes: int
    donated: bool


@dataclasses.dataclass(frozen=True)
class ProgramFacts:
    """Everything read from one program.

    cycles: the compiler's estimate, without Pallas kernels and communication; None before code generation.
    hbm_bytes: bytes read from and written to HBM.
    flops: of matrix products and convolutions, without kernels.
    kernels: Pallas kernels by name: how often they run.
    unknown_loops: loops whose number of trips the text does not tell; they count once.
    text_bytes, instructions: the size of the program.
    """

    name: str
    collectives: tuple[Collective, ...]
    cycles: int | None
    hbm_bytes: int
    flops: int
    arguments: tuple[Argument, ...]
    kernels: Mapping[str, int]
    unknown_loops: tuple[str, ...]
    loop_trips: Mapping[str, int]
    text_bytes: int
    instructions: int

    @property
    def argument_bytes(self) -> int:
        """Bytes of all parameters."""
        return sum(one.bytes for one in self.arguments)

    @property
    def donated_bytes(self) -> int:
        """Bytes of the parameters whose place a result takes."""
        return sum(one.bytes for one in self.arguments if one.donated)

    def collective_bytes(self) -> dict[tuple[str, tuple[str, ...]], int]:
        """Bytes of all collectives by kind and mesh axes."""
        totals: collections.Counter = collections.Counter()
        for one in self.collectives:
            totals[one.kind, one.axes] += one.total_bytes
        return dict(totals)

    def flattened(self) -> tuple[Collective, ...]:
        """All-reduces that stand for a gather or a scatter."""
        return tuple(one for one in self.collectives if one.stands_for)

    def gathers_outside_loops(self, least_bytes: int) -> tuple[Collective, ...]:
        """All-gathers (also those made as all-reduces) that stand in no loop and give at least so many bytes."""
        return tuple(
            one
            for one in self.collectives
            if "all-gather" in (one.kind, one.stands_for) and not one.loops and one.bytes >= least_bytes
        )


def program_facts(text: str, mesh: Mapping[str, int], across: Mapping[str, int] | None = None) -> ProgramFacts:
    """Reads the text of a program scheduled for `mesh` (sizes of its axes, outermost first).

    across: over how many slices an axis runs, where there are several ({"slice": 2}). Devices in the text are places
    in the flattened mesh of one slice; what goes between slices is sent by their hosts and names no groups.

    Raises:
      ValueError: the text is not a program.
    """
    module = parse_module(text)
    across = {axis: ways for axis, ways in (across or {}).items() if ways > 1}
    within = {axis: size // across.get(axis, 1) for axis, size in mesh.items()}
    walk = _walk(module)
    collectives = [
        _collective(module, computation, item, within, times, walk.loops[computation.name])
        for computation, times in walk.all()
        for item in computation.instructions.values()
        if _kind(item) and (computation.name in walk.steps or begins_collective(computation, item))
    ]
    collectives += [one for computation, times in walk.control() for one in _between(computation, times, walk, across)]
    top = [(item, times) for computation, times in walk.control() for item in computation.instructions.values()]
    cycles = [(int(found[1]), times) for item, times in top if (found := _CYCLES.search(item.rest))]
    return ProgramFacts(
        name=module.name,
        collectives=tuple(collectives),
        cycles=sum(one * times for one, times in cycles) if cycles else None,
        hbm_bytes=sum(hbm_traffic(module, computation) * times for computation, times in walk.control()),
        flops=sum(product_flops(computation) * times for computation, times in walk.all()),
        arguments=_arguments(module),
        kernels=_kernels(top),
        unknown_loops=tuple(walk.unknown),
        loop_trips=walk.trips,
        text_bytes=module.size,
        instructions=module.instruction_count,
    )


@dataclasses.dataclass
class _Walk:
    """How often each computation runs: as a part of the schedule (`steps`), or within fusions (`fused`)."""

    module: Module
    steps: collections.Counter
    fused: collections.Counter
    loops: dict[str, int]
    trips: dict[str, int]
    unknown: list[str]

    def control(self) -> list[tuple[Computation, int]]:
        return [(self.module.computations[name], times) for name, times in self.steps.items()]

    def all(self) -> list[tuple[Computation, int]]:
        return [(self.module.computations[name], times) for name, times in (self.steps + self.fused).items()]


def _walk(module: Module) -> _Walk:
    walk = _Walk(module, collections.Counter({module.entry.name: 1}), collections.Counter(), {}, {}, [])
    walk.loops[module.entry.name] = 0
    # Callers stand after what they call, so each is complete when its turn comes.
    for computation in reversed(module.computations.values()):
        for counts in (walk.steps, walk.fused):
            if counts[computation.name]:
                for item in computation.instructions.values():
                    _follow(walk, computation, item, counts)
    return walk


def _follow(walk, computation, item, counts):
    times, depth = counts[computation.name], walk.loops[computation.name]
    if item.opcode == "while":
        trips = trip_count(walk.module, computation, item)
        if trips is None:
            walk.unknown.append(item.name)
        walk.trips[item.name] = trips = 1 if trips is None else trips
        called = [(item.called_as("body"), counts, trips, 1), (item.called_as("condition"), counts, trips + 1, 1)]
    elif item.opcode == "fusion":
        called = [(name, walk.fused, 1, 0) for name in item.called]
    elif item.opcode in ("call", "conditional", "async-start"):
        called = [(name, counts, 1, 0) for name in item.called]
    else:
        return
    for name, where, trips, deeper in called:
        where[name] += times * trips
        walk.loops[name] = max(walk.loops.get(name, 0), depth + deeper)


def _kind(item: Instruction) -> str | None:
    kind = item.opcode.removesuffix("-start")
    return kind if kind in KINDS else None


def _collective(module, computation, item, mesh, times, loops):
    kind = _kind(item)
    if kind == "collective-permute":
        axes, size = _axes_of_pairs(source_target_pairs(item), mesh)
    else:
        groups = replica_groups(item)
        axes, size = _axes_of_groups(np.arange(math.prod(mesh.values()))[None] if groups is None else groups, mesh)
    sent = sum(total_bytes(computation.instructions[name].shapes) for name in item.operands)
    given = total_bytes(item.shapes)
    if item.opcode.endswith("-start"):
        given = sent * size if kind == "all-gather" else sent
    stands_for = None
    if kind == "all-reduce":
        if computation.root.opcode == "dynamic-slice" and computation.name.startswith("all-reduce-scatter"):
            # A fusion of this name is one native operation.
            kind = "reduce-scatter"
        else:
            stands_for = _stands_for(module, computation, item)
    name = _OP_NAME.search(item.rest)
    return Collective(
        name=item.name,
        kind=kind,
        bytes=max(sent, given),
        axes=axes,
        size=size,
        times=times,
        loops=loops,
        op_name=name[1].replace("\\'", "'") if name else "",
        stands_for=stands_for,
        shapes=_given(item),
    )


def _given(item):
    """Shapes of the arrays that a collective gives; the beginning of a gather names its operands before them."""
    shapes = tuple(shape.dimensions for shape in item.shapes)
    return shapes[len(shapes) // 2 :] if item.opcode == "all-gather-start" else shapes


def _stands_for(module, computation, item):
    """The collective that an all-reduce takes the place of."""
    makers = [computation.instructions[name] for name in item.operands]
    if makers and all(_result_opcode(module, maker) == "dynamic-update-slice" for maker in makers):
        return "all-gather"
    users = computation.users.get(item.name, [])
    if users and all(_only_slices(module, user, item.name) for user in users):
        return "reduce-scatter"
    return None


def _result_opcode(module, item):
    if item.opcode == "fusion":
        return _result_opcode(module, module.computations[item.called_as("calls")].root)
    return item.opcode


def _only_slices(module, user, name):
    """Whether `user` takes a slice that depends on the device, and nothing else, of the value `name`."""
    if user.opcode == "dynamic-slice":
        return user.operands[0] == name
    if user.opcode != "fusion":
        return False
    inner = module.computations[user.called_as("calls")]
    taken = [inner.parameters[place] for place, operand in enumerate(user.operands) if operand == name]
    uses = [(one, parameter) for parameter in taken for one in inner.users.get(parameter, [])]
    return bool(uses) and all(_only_slices(module, one, parameter) for one, parameter in uses)


def _axes_of_groups(groups, mesh) -> tuple[tuple[str, ...], int]:
    """The mesh axes along which devices of a group differ, and the size of a group."""
    places = np.stack(np.unravel_index(groups, tuple(mesh.values())))
    differ = (places != places[:, :, :1]).any(axis=(1, 2))
    return tuple(axis for axis, one in zip(mesh, differ, strict=True) if one), groups.shape[1]


def _axes_of_pairs(pairs, mesh) -> tuple[tuple[str, ...], int]:
    places = np.stack(np.unravel_index(pairs, tuple(mesh.values())))
    differ = (places[:, :, 0] != places[:, :, 1]).any(axis=1)
    axes = tuple(axis for axis, one in zip(mesh, differ, strict=True) if one)
    return axes, math.prod(mesh[axis] for axis in axes)


def _between(computation, times, walk, across):
    """Collectives over the data-centre network: pairs of `send` and `recv` that the hosts carry out."""
    ends: dict[str, list[Instruction]] = {}
    for item in computation.instructions.values():
        kind = item.attribute(r'_xla_megascale_transfer_type="(\w+)"') if item.opcode in ("send", "recv") else None
        if kind:
            ends.setdefault(item.attribute(r'_xla_host_transfer_rendezvous="([^"]*)"'), []).append(item)
    for name, items in ends.items():
        kind = items[0].attribute(r'_xla_megascale_transfer_type="(\w+)"').lower().replace("_", "-")
        op_name = next((found[1] for item in items if (found := _OP_NAME.search(item.rest))), name)
        yield Collective(
            name=items[0].name,
            kind={"one-to-one": "collective-permute"}.get(kind, kind),
            bytes=max(array_shapes(item.type)[0].bytes for item in items),
            axes=tuple(across),
            size=math.prod(across.values()),
            times=times,
            loops=walk.loops[computation.name],
            op_name=op_name,
            between_slices=True,
        )


def _arguments(module):
    header = module.header
    aliases = header.partition("input_output_alias={")[2]
    aliases = aliases[: aliases.find(" }")]
    donated = {int(number) for number, _ in _ALIAS.findall(aliases)}
    arguments = []
    for number, name in sorted(module.entry.parameters.items()):
        item = module.entry.instructions[name]
        called = _OP_NAME.search(item.rest)
        arguments.append(
            Argument(called[1].replace("\\'", "'") if called else name, total_bytes(item.shapes), number in donated)
        )
    return tuple(arguments)


def _kernels(top):
    kernels: collections.Counter = collections.Counter()
    for item, times in top:
        target = _TARGET.search(item.rest) if item.opcode == "custom-call" else None
        if target and target[1] == "tpu_custom_call":
            kernels[re.sub(r"(\.\d+|\.clone|\.remat)+$", "", item.name)] += times
    return dict(kernels)
