"""Reads the text of a compiled program (HLO): computations, instructions, shapes, groups of devices, loop trips.

Only what the facts in `mmjax.planning.hlo` need. Lines are taken apart by one regular expression each, so that twenty
megabytes are read in seconds.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Iterator

import numpy as np

BITS = {"pred": 8, "token": 0, "opaque": 0, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "f4e2m1fn": 4}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^ +(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)$")
_BEGINNING = re.compile(r"^ +(?:ROOT )?%?[\w.\-]+ = ")
_OPERAND = re.compile(r"%([\w.\-]+(?:#\d+)*)")
_ELEMENT = re.compile(r"%([\w.\-]+)((?:#\d+)+)")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](\{[^{}]*\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_CALLED = re.compile(r"(?:calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_THROUGH = ("copy", "bitcast", "convert", "reshape", "copy-start", "copy-done", "broadcast")


@dataclasses.dataclass(frozen=True, slots=True)
class ArrayShape:
    """One array of an instruction's result: bytes without padding, the memory space (0 is HBM), and its dimensions."""

    bytes: int
    space: int
    dimensions: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Instruction:
    """One line. `rest` is what follows the opening parenthesis: operands, then attributes."""

    name: str
    type: str
    opcode: str
    rest: str
    is_root: bool

    @property
    def operands(self) -> list[str]:
        """Names of the operands."""
        return _OPERAND.findall(self.rest[: _closing(self.rest)])

    @property
    def literal(self) -> str:
        """What stands between the parentheses."""
        return self.rest[: _closing(self.rest)]

    @property
    def attributes(self) -> str:
        """What follows the operands."""
        return self.rest[_closing(self.rest) + 1 :]

    @property
    def called(self) -> list[str]:
        """Computations that the attributes name."""
        names = _CALLED.findall(self.rest)
        branches = _BRANCHES.search(self.rest)
        return names + ([name.strip().lstrip("%") for name in branches[1].split(",")] if branches else [])

    def called_as(self, role: str) -> str | None:
        """The computation with one role, `body` or `calls`."""
        match = re.search(rf"\b{role}=%?([\w.\-]+)", self.rest)
        return match[1] if match else None

    def attribute(self, pattern: str) -> str | None:
        """The first group of a regular expression in the line."""
        match = re.search(pattern, self.rest)
        return match[1] if match else None

    @property
    def shapes(self) -> tuple[ArrayShape, ...]:
        """The arrays of the result, those of nested tuples one after the other."""
        return array_shapes(self.type)


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in the order in which they run."""

    name: str
    instructions: dict[str, Instruction]

    @functools.cached_property
    def root(self) -> Instruction:
        """The result."""
        return next(item for item in reversed(self.instructions.values()) if item.is_root)

    @functools.cached_property
    def parameters(self) -> dict[int, str]:
        """Names of the parameters by number."""
        return {int(item.literal): item.name for item in self.instructions.values() if item.opcode == "parameter"}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that take a value as operand."""
        users: dict[str, list[Instruction]] = {}
        for item in self.instructions.values():
            for name in dict.fromkeys(item.operands):
                users.setdefault(name, []).append(item)
        return users


@dataclasses.dataclass(frozen=True)
class Module:
    """A program. Computations stand after those that they call; the entry is last."""

    name: str
    header: str
    computations: dict[str, Computation]
    entry: Computation
    size: int

    @property
    def instruction_count(self) -> int:
        """Instructions of all computations."""
        return sum("#" not in name for item in self.computations.values() for name in item.instructions)


def parse_module(text: str) -> Module:
    """Reads the text of a program."""
    lines = iter(text.splitlines())
    header = next(lines, "")
    if not header.startswith("HloModule "):
        raise ValueError("not the text of an HLO module: it does not begin with HloModule")
    computations: dict[str, Computation] = {}
    entry = None
    for line in lines:
        opening = _COMPUTATION.match(line) if line.endswith("{") else None
        if opening:
            computations[opening[2]] = Computation(opening[2], _instructions(lines))
            entry = computations[opening[2]] if opening[1] else entry
    return Module(header[len("HloModule ") :].split(",")[0], header, computations, entry, len(text))


def _instructions(lines: Iterator[str]) -> dict[str, Instruction]:
    """The lines of one computation. `%a#1`, an element of a tuple without a line of its own, becomes one."""
    found: dict[str, Instruction] = {}
    for line in _whole_lines(lines):
        match = _INSTRUCTION.match(line)
        if not match:
            continue
        root, name, shape, opcode, rest = match.groups()
        for whole, places in _ELEMENT.findall(rest) if "#" in rest else ():
            for place in places[1:].split("#"):
                element = f"{whole}#{place}"
                if element not in found:
                    part = _element(found[whole].type, int(place))
                    found[element] = Instruction(element, part, "get-tuple-element", f"%{whole}), index={place}", False)
                whole = element
        found[name] = Instruction(name, shape, opcode, rest, root is not None)
    return found


def _whole_lines(lines: Iterator[str]) -> Iterator[str]:
    """The instructions up to the end of a computation; an attribute of one may go over several lines."""
    whole = ""
    for line in lines:
        ends = line == "}" or line.startswith("}, execution_thread")
        if ends or _BEGINNING.match(line):
            yield whole
            whole = line
        else:
            whole += " " + line
        if ends:
            return


@functools.lru_cache(maxsize=65536)
def _element(text, place):
    """The type of one element of a tuple's type."""
    depth, begin, count = 0, 1, 0
    for match in re.finditer(r"[(){}\[\],]", text):
        if match[0] in "({[":
            depth += 1
        elif match[0] in ")}]":
            depth -= 1
        if (match[0] == "," and depth == 1) or not depth:
            if count == place:
                return re.sub(r"/\*.*?\*/", "", text[begin : match.start()]).strip()
            count, begin = count + 1, match.end()
    raise ValueError(f"{text} has no element {place}")


def _closing(rest):
    """Where the parenthesis closes that was open before `rest`."""
    depth = 1
    for match in re.finditer(r"[()]", rest):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.start()
    return len(rest)


@functools.lru_cache(maxsize=65536)
def array_shapes(text: str) -> tuple[ArrayShape, ...]:
    """The arrays of a type, `bf16[4,128]{1,0:T(8,128)(2,1)S(1)}` or a tuple of such."""
    shapes = []
    for kind, sizes, layout in _ARRAY.findall(text):
        dimensions = tuple(int(size.lstrip("<=")) for size in sizes.split(",") if size)
        space = _SPACE.search(layout)
        shapes.append(ArrayShape(math.prod(dimensions) * _bits(kind) // 8, int(space[1]) if space else 0, dimensions))
    return tuple(shapes)


def _bits(kind):
    if kind in BITS:
        return BITS[kind]
    return int(re.search(r"\d+", kind)[0])


def total_bytes(shapes: Iterable[ArrayShape]) -> int:
    """Bytes of arrays in whatever memory."""
    return sum(shape.bytes for shape in shapes)


def replica_groups(item: Instruction) -> np.ndarray | None:
    """Groups of devices that a collective joins, one a row; None for one group of all.

    Notations: `{{0,1},{2,3}}`, `[2,4]<=[8]`, `[4,2]<=[2,4]T(1,0)`, and by mesh axes, `mesh['a'=2,'b'=4] {'b'}`, where
    `'b':(1)2` is the part of axis b that has 1 place before it and 2 of its own.
    """
    text = item.rest.partition("replica_groups=")[2]
    if text.startswith("{{"):
        rows = text[2 : text.index("}}")].split("},{")
        return np.array([[int(one) for one in row.split(",")] for row in rows])
    if text.startswith("["):
        return _iota(text)
    if text.startswith("mesh["):
        return _mesh_groups(text)
    return None


def _iota(text):
    shape, reshape, order = _IOTA.match(text).groups()
    ids = np.arange(math.prod(_numbers(reshape))).reshape(_numbers(reshape))
    return (ids.transpose(_numbers(order)) if order else ids).reshape(_numbers(shape))


def _mesh_groups(text):
    axes, ids, joined = _MESH.match(text).groups()
    sizes = {name.strip("' "): int(size) for name, size in (axis.split("=") for axis in axes.split(","))}
    count = math.prod(sizes.values())
    if not ids:
        order = np.arange(count)
    elif "<=" in ids:
        order = _iota(ids).reshape(-1)
    elif ids.startswith("["):
        # All places in this shape, transposed: [16,16]T(1,0).
        shape, _, turned = ids.partition("]T")
        order = np.arange(count).reshape(_numbers(shape[1:])).transpose(_numbers(turned.strip("()"))).reshape(-1)
    else:
        order = np.array([int(one) for one in re.findall(r"\d+", ids)])
    # Every axis in three parts, before the joined part, it, and after; the middle parts of the joined ones move last.
    parts: list[int] = []
    wanted = [re.fullmatch(r"'?([^':]+)'?(?::\((\d+)\)(\d+))?", one.strip()).groups() for one in joined.split(",")]
    cuts = {name: (int(before or 1), int(size) if size else sizes[name]) for name, before, size in wanted}
    for name, size in sizes.items():
        before, own = cuts.get(name, (size, 1))
        parts += [before, own, size // (before * own)]
    names = list(sizes)
    last = [3 * names.index(name) + 1 for name, _, _ in wanted]
    first = [axis for axis in range(len(parts)) if axis not in last]
    return order.reshape(parts).transpose(first + last).reshape(-1, math.prod(parts[axis] for axis in last))


def source_target_pairs(item: Instruction) -> np.ndarray:
    """Pairs of devices, sender and receiver, of a collective-permute."""
    pairs = re.search(r"source_target_pairs=\{(\{.*?\})\}", item.rest)
    return np.array([[int(one) for one in pair.split(",")] for pair in re.findall(r"\{([\d,]+)\}", pairs[1])])


def _numbers(text):
    return [int(one) for one in text.split(",")]


def trip_count(module: Module, caller: Computation, loop: Instruction) -> int | None:
    """How often a `while` runs its body; None where the text does not tell.

    As the compiler says it, or from what it starts with, adds, and compares to: `for i = start; i < end; i += step`.
    """
    known = _TRIPS.search(loop.rest)
    if known:
        return int(known[1])
    condition = module.computations[loop.called_as("condition")]
    body = module.computations[loop.called_as("body")]
    compare, scope = _compare(module, condition)
    if compare is None:
        return None
    sides = [_side(scope(name), condition) for name in compare.operands]
    initial = caller.instructions.get(loop.operands[0])
    direction = compare.attribute(r"direction=(\w+)")
    if isinstance(sides[1], tuple) and not isinstance(sides[0], tuple):
        sides = sides[::-1]
        direction = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE"}.get(direction, direction)
    if initial is None or initial.opcode != "tuple" or not isinstance(sides[0], tuple):
        return None
    place = sides[0][0]
    values = initial.operands
    start = _constant(caller, values[place])
    end = _constant(caller, values[sides[1][0]]) if isinstance(sides[1], tuple) else sides[1]
    step = _step(module, body, place)
    if start is None or end is None or not step:
        return None
    reach = end - start + {"LE": 1, "GE": -1}.get(direction, 0)
    return max(0, -(-reach // step))


def _compare(module, condition):
    """The comparison that a loop's condition comes to, and how to name its operands in the condition."""
    root = condition.root
    if root.opcode == "compare":
        return root, lambda name: name
    if root.opcode == "fusion":
        inner = module.computations[root.called_as("calls")]
        outer = {inner.parameters[place]: name for place, name in enumerate(root.operands)}
        if inner.root.opcode == "compare":
            return inner.root, lambda name: outer.get(name, inner.instructions[name])
    return None, None


def _side(value, condition):
    """A place of the loop's tuple, as (place,), or a constant; None for anything else."""
    item = value if isinstance(value, Instruction) else _origin(condition, value)
    if item is None:
        return None
    if item.opcode == "get-tuple-element":
        return (int(item.attribute(r"index=(\d+)")),)
    return _literal(item)


def _origin(scope, name):
    item = scope.instructions.get(name)
    while item is not None and item.opcode in _THROUGH and item.operands:
        item = scope.instructions.get(item.operands[0])
    return item


def _constant(scope, name):
    item = _origin(scope, name)
    return None if item is None else _literal(item)


def _literal(item):
    text = item.literal.strip("{} ")
    return int(text) if item.opcode == "constant" and re.fullmatch(r"-?\d+", text) else None


def _step(module, body, place):
    """What the body adds to a place of its tuple each time."""
    if body.root.opcode != "tuple":
        return None
    item, scope, outer = _origin(body, body.root.operands[place]), body, {}
    if item is not None and item.opcode == "fusion":
        scope = module.computations[item.called_as("calls")]
        outer = {scope.parameters[number]: name for number, name in enumerate(item.operands)}
        item = scope.root
    if item is None or item.opcode not in ("add", "subtract"):
        return None
    constants = [_constant(scope, name) for name in item.operands]
    constants = [
        value if value is not None else _constant(body, outer[name]) if name in outer else None
        for value, name in zip(constants, item.operands, strict=True)
    ]
    added = next((value for value in constants if value is not None), None)
    return -added if added is not None and item.opcode == "subtract" else added
