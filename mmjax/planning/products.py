"""FLOPs of the matrix products and convolutions of a compiled program, from what its instructions say of themselves.

On TPUs every product is a convolution: one of a batch of matrices has a window that slides over the batch, with strides
and dilations by which each result meets a single matrix. Only what is really multiplied counts. A product with one
vector is a multiplication of all pairs and a sum; it keeps the name of the product that it was.
"""

from __future__ import annotations

import math
import re

from mmjax.ops.flops import real_pairs
from mmjax.planning.hlo_text import Computation, Instruction

_LABELS = re.compile(r"dim_labels=([\w?]+)_([\w?]+)->([\w?]+)")
_PRODUCT = re.compile(r'op_name="[^"]*/dot_general"')
_THROUGH = ("bitcast", "convert", "copy", "reshape", "transpose")
_WINDOW = re.compile(r"window=\{([^}]*)\}")


def product_flops(computation: Computation) -> int:
    """Of one run of a computation, without those that it calls; a multiplication and an addition are two."""
    costs = {"dot": _dot, "convolution": _convolution, "reduce": _reduction}
    return sum(
        costs[item.opcode](computation, item) for item in computation.instructions.values() if item.opcode in costs
    )


def _dot(computation: Computation, item: Instruction) -> int:
    left = computation.instructions[item.operands[0]].shapes[0].dimensions
    summed = item.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
    return (
        2 * math.prod(item.shapes[0].dimensions) * math.prod(left[int(place)] for place in summed.split(",") if place)
    )


def _reduction(computation: Computation, item: Instruction) -> int:
    summed = computation.instructions[item.operands[0]]
    while summed.opcode in _THROUGH:
        summed = computation.instructions[summed.operands[0]]
    if summed.opcode != "multiply" or not _PRODUCT.search(item.rest):
        return 0
    return 2 * math.prod(summed.shapes[0].dimensions)


def _convolution(computation: Computation, item: Instruction) -> int:
    arrays = [*(computation.instructions[name] for name in item.operands[:2]), item]
    source, kernel, result = (
        dict(zip(labels, array.shapes[0].dimensions, strict=True))
        for labels, array in zip(_LABELS.search(item.rest).groups(), arrays, strict=True)
    )
    window = _WINDOW.search(item.rest)
    told = dict(part.split("=") for part in window[1].split()) if window else {}

    def of(name, place, default):
        return told[name].split("x")[place] if name in told else default

    pairs = 1
    for place in range(sum(label.isdigit() for label in result)):
        size, taps, places = (shape[str(place)] for shape in (source, kernel, result))
        pairs *= real_pairs(
            size,
            taps,
            places,
            stride=int(of("stride", place, 1)),
            low=int(of("pad", place, "0_0").split("_")[0]),
            stretch=int(of("lhs_dilate", place, 1)),
            apart=int(of("rhs_dilate", place, 1)),
        )
    return 2 * result["b"] * result["f"] * kernel["i"] * pairs
