"""What a device holds while a program runs, from the compiler's own assignment of buffers."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}
_ALLOCATION = re.compile(r"allocation \d+: size (\d+), (?:page \d+, )?(.*?):?$", re.MULTILINE)
_COLOR = re.compile(r"color (\d+)")
_SPACE = re.compile(r"Memory Space: (\S+) \(color=(\d+)\)\nTotal bytes: (\d+)")
_ROW = re.compile(r"^ *[\d.]+[KMGT]?i?B\( *\d+%\); *([\d.]+)([KMGT]?)i?B; *\d+; *\d+; (.*)$", re.MULTILINE)
_SHOWN = 12


@dataclasses.dataclass(frozen=True)
class Buffer:
    """A buffer and the shapes that it holds in turn. Temporary ones may share their place with others."""

    bytes: int
    shapes: str


@dataclasses.dataclass(frozen=True)
class MemoryReport:
    """HBM of one device, in bytes.

    hbm_bytes: all of it, with the rest that is not listed below (scratch of reductions, some kilobytes).
    argument_bytes: parameters; donated_bytes is the part of them that results are written into.
    output_bytes: results in buffers of their own.  temp_bytes: everything that lives within the program.
    spaces: bytes by memory space ("default" is HBM).  largest: buffers of HBM by falling size.
    code_bytes: of the generated code, if it was generated.
    """

    hbm_bytes: int
    argument_bytes: int
    donated_bytes: int
    output_bytes: int
    temp_bytes: int
    constant_bytes: int
    spaces: Mapping[str, int]
    largest: tuple[Buffer, ...]
    code_bytes: int | None = None


def parse_size(text: str) -> int:
    """Bytes of a figure of the compiler, `58.36G` (powers of 1024)."""
    number, unit = (text[:-1], text[-1]) if text[-1] in _UNITS else (text, "")
    return round(float(number) * _UNITS[unit])


def read_memory(folder: pathlib.Path) -> MemoryReport:
    """Reads the two reports on buffers in a folder of the compiler's dumps."""
    (assignment,) = folder.glob("*.after_optimizations-buffer-assignment.txt")
    (usage,) = folder.glob("*.after_optimizations-memory-usage-report.txt")
    return parse_memory(assignment.read_text(), usage.read_text())


def parse_memory(assignment: str, usage: str) -> MemoryReport:
    """The report from the texts of `buffer-assignment.txt` and `memory-usage-report.txt`."""
    totals = {"parameter": 0, "donated": 0, "output": 0, "temp": 0, "constant": 0}
    for size, what in _ALLOCATION.findall(assignment):
        color = _COLOR.search(what)
        if (color and color[1] != "0") or "thread-local" in what:
            continue
        if what.startswith("parameter "):
            totals["parameter"] += int(size)
            totals["donated"] += int(size) if "maybe-live-out" in what else 0
        else:
            kind = "temp" if "temp" in what else "constant" if what.startswith("constant") else "output"
            totals[kind] += int(size)
    spaces = {name: int(size) for name, _, size in _SPACE.findall(usage)}
    hbm = usage.partition("Memory Space:")[2].partition("Memory Space:")[0]
    rows = {Buffer(parse_size(number + unit), shapes) for number, unit, shapes in _ROW.findall(hbm)}
    return MemoryReport(
        hbm_bytes=spaces["default"],
        argument_bytes=totals["parameter"],
        donated_bytes=totals["donated"],
        output_bytes=totals["output"],
        temp_bytes=totals["temp"],
        constant_bytes=totals["constant"],
        spaces=spaces,
        largest=tuple(sorted(rows, key=lambda row: (-row.bytes, row.shapes))[:_SHOWN]),
    )
