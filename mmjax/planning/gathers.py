"""Gathers of the parameters of all layers at once, outside the loop that takes one layer at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from mmjax.parallel.sharding import Axes, mesh_axes_of
from mmjax.planning.hlo import ProgramFacts

# Elements. Smaller gathers cost nothing, and are told apart from others by their size badly.
_LARGE = 2**18


def stacked_pieces(
    shape: tuple[int, ...], axes: Axes, spec: Sequence[str | tuple[str, ...] | None], mesh: Mapping[str, int]
) -> tuple[int, list[int]] | None:
    """(layers, elements that a device has after a gather along some or all of the mesh axes that split it).

    None for what is no matrix of several layers, or is not split.
    """
    if len(shape) <= 2 or "layers" not in axes or shape[axes.index("layers")] == 1:
        return None
    split = [axis for place in range(len(shape)) for axis in mesh_axes_of(spec, place)]
    kept = [sum_ for size in range(len(split)) for sum_ in itertools.combinations(split, size)]
    found = {math.prod(shape) // math.prod(mesh[axis] for axis in axes) for axes in kept}
    return (shape[axes.index("layers")], sorted(found)) if found else None


def whole_gathers(facts: ProgramFacts, pieces: Sequence[tuple[int, Sequence[int]]]) -> list[str]:
    """Gathers in no loop of as much as `pieces` (of `stacked_pieces`) tell, in arrays that are as deep as the stack."""
    wanted = {(layers, size) for layers, sizes in pieces for size in sizes if size >= _LARGE}
    return [
        f"{one.bytes} bytes along {'+'.join(one.axes)}: {one.op_name}"
        for one in facts.gathers_outside_loops(_LARGE)
        if any((depth, math.prod(shape)) in wanted for shape in one.shapes for depth in shape)
    ]
