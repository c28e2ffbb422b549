"""Bytes that a computation moves from and to HBM, by the shapes of what its instructions read and write.

Arrays that the compiler keeps in VMEM or other memories of the core (`S(1)` in their layout) do not count. Of an array
that is only sliced, the slice counts; of one that is updated in place, the update.
"""

from __future__ import annotations

from mmjax.planning.hlo_text import Computation, Instruction, Module, total_bytes

HBM = 0
# What moves nothing: names for values, control flow (its bodies count by themselves), numbers of devices.
_STILL = frozenset(
    {
        "add-dependency",
        "after-all",
        "bitcast",
        "call",
        "conditional",
        "constant",
        "get-tuple-element",
        "iota",
        "opt-barrier",
        "optimization-barrier",
        "parameter",
        "partition-id",
        "replica-id",
        "tuple",
        "while",
    }
)
_SLICES = ("dynamic-slice", "slice", "gather")
_IN_PLACE = ("dynamic-update-slice", "scatter")


def hbm_traffic(module: Module, computation: Computation) -> int:
    """Bytes that the instructions of a scheduled computation move, each once, without those that it calls."""
    return sum(_moved(module, computation, item) for item in computation.instructions.values())


def begins_collective(computation: Computation, item: Instruction) -> bool:
    """Whether a collective is the whole of it, or the first part of one that goes on beside other fusions.

    Such a one is repeated in each fusion that it runs beside; the one that begins it feeds `AsyncCollectiveStart`.
    """
    if '"async_collective_fusion_config"' not in item.rest:
        return True
    users = computation.users.get(item.name, [])
    return any('custom_call_target="AsyncCollectiveStart"' in user.rest for user in users)


def _moved(module, computation: Computation, item: Instruction) -> int:
    if item.opcode in _STILL or item.opcode.endswith(("-done", "-update")):
        return 0
    if item.opcode == "custom-call" and not item.operands:
        return 0  # a buffer is set aside
    makers = [computation.instructions[name] for name in item.operands]
    read = sum(min(_hbm_bytes(maker), _read(module, item, place)) for place, maker in enumerate(makers))
    if item.opcode.endswith("-start"):
        # The result holds the operands too.
        return read + max(0, _hbm_bytes(item) - sum(map(_hbm_bytes, makers)))
    written = _written(module, computation, item)
    parts = zip(item.shapes, written, strict=True) if len(written) == len(item.shapes) else []
    return read + sum(min(shape.bytes, size) for shape, size in parts if shape.space == HBM)


def _hbm_bytes(item):
    return sum(shape.bytes for shape in item.shapes if shape.space == HBM)


def _read(module, item: Instruction, place: int) -> float:
    """Bytes that an instruction reads of its operand at `place`; infinite for the whole of it."""
    if item.opcode in _SLICES and place == 0:
        return total_bytes(item.shapes)
    if item.opcode in _IN_PLACE and place == 0:
        return 0
    if item.opcode in ("fusion", "async-start"):
        inner = module.computations[item.called_as("calls")]
        return _read_within(module, inner, inner.parameters[place])
    return float("inf")


def _read_within(module, computation: Computation, name: str) -> float:
    """Bytes that the instructions of a fusion read of the value `name`."""
    total = 0
    for user in computation.users.get(name, []):
        if user.opcode == "bitcast":
            total += _read_within(module, computation, user.name)
        elif not _passes(computation, user):
            total += sum(_read(module, user, place) for place, one in enumerate(user.operands) if one == name)
    return total


def _passes(computation, item):
    """Whether an instruction within a fusion only hands values on."""
    later_part = item.opcode != "fusion" and not begins_collective(computation, item)
    return item.opcode in _STILL or later_part or 'custom_call_target="AsyncCollective' in item.rest


def _written(module, computation: Computation, item: Instruction) -> list[float]:
    """Bytes that an instruction writes of each array of its result; infinite for the whole of one."""
    if item.opcode in _IN_PLACE:
        update = computation.instructions[item.operands[-1 if item.opcode == "scatter" else 1]]
        return [total_bytes(update.shapes)]
    if item.opcode == "fusion":
        inner = module.computations[item.called_as("calls")]
        return _written(module, inner, inner.root)
    if item.opcode == "tuple":
        return [
            size for name in item.operands for size in _written(module, computation, computation.instructions[name])
        ]
    if item.opcode == "bitcast":
        return _written(module, computation, computation.instructions[item.operands[0]])
    if 'custom_call_target="AsyncCollectiveStart"' in item.rest:
        # Its second array is where the collective's result goes; the first is its operand.
        return [float("inf") if place == 1 else 0 for place in range(len(item.shapes))]
    if item.opcode == "parameter" or _passes(computation, item):
        return [0] * len(item.shapes)
    return [float("inf")] * len(item.shapes)
