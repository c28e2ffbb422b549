"""Floating-point operations of a function's matmuls and convolutions, counted on its jaxpr.

`compiled.cost_analysis()` counts a loop's body once and knows no kernels; here every trip counts.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend import core as jaxpr_core
from jax.interpreters import partial_eval

# A primitive that computes something this count cannot see into.
_OPAQUE = {"ffi_call", "custom_partitioning", "pure_callback", "io_callback", "tpu_custom_call"}

_TRANSFORM = re.compile(r"\w+\(|\)")
_MACHINERY = {"", "checkpoint", "rematted_computation"}


@dataclasses.dataclass(frozen=True)
class FlopCount:
    """Operations of one call, over all devices; a multiplication and an addition are two.

    `by_scope` has the first parts of the name stack (of modules and `jax.named_scope`), gradients included
    with what they are the gradient of; "" is what lies in no scope. `open_loops` counts `while` loops,
    whose trips are not known and whose body was counted once; `opaque` counts calls by name of what could
    not be counted at all. With either, `total` is too low.
    """

    total: int
    by_primitive: dict[str, int]
    by_scope: dict[str, int]
    open_loops: int
    opaque: dict[str, int]


def count_flops(function: Callable[..., Any], *arguments: Any, scope_depth: int = 1) -> FlopCount:
    """Counts the operations of function(*arguments); arguments may be `jax.ShapeDtypeStruct`s.

    Counted are matrix products and convolutions (positions in padding or between dilated elements left
    out), with scans times their length, the dearest branch of a `cond`, recomputation under
    `jax.checkpoint`, and kernels (Pallas by their program times their grid, cuDNN attention by its
    shapes). Element-wise work, reductions, sorts, FFTs and decompositions are not counted. What does not
    reach the result is left out, as the compiler would. Attention counts every pair that is computed: the
    masked half too, where a backend computes it.

    Args:
      scope_depth: how many parts of the name stack tell scopes apart.
    """
    return count_jaxpr_flops(jax.make_jaxpr(function)(*arguments), scope_depth=scope_depth)


def count_jaxpr_flops(closed: jaxpr_core.ClosedJaxpr, *, scope_depth: int = 1) -> FlopCount:
    """The same of a function that is traced already."""
    jaxpr = closed.jaxpr
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    tally = _Tally(scope_depth)
    _count(jaxpr, tally, 1, ())
    return FlopCount(
        sum(tally.by_primitive.values()),
        dict(tally.by_primitive),
        dict(tally.by_scope),
        tally.open_loops,
        dict(tally.opaque),
    )


@dataclasses.dataclass
class _Tally:
    scope_depth: int
    by_primitive: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    by_scope: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    opaque: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    open_loops: int = 0

    def add(self, primitive: str, scope: tuple[str, ...], operations: int) -> None:
        self.by_primitive[primitive] += operations
        self.by_scope["/".join(scope[: self.scope_depth])] += operations

    def take(self, other: _Tally) -> None:
        self.by_primitive += other.by_primitive
        self.by_scope += other.by_scope
        self.opaque += other.opaque
        self.open_loops += other.open_loops


def _count(jaxpr, tally: _Tally, times: int, outer_scope: tuple[str, ...]) -> None:
    """Adds to `tally` what `times` runs of `jaxpr` inside `outer_scope` cost."""
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        scope = _joined(outer_scope, equation)
        if name in _COSTS:
            tally.add(name, scope, times * _COSTS[name](equation))
        elif name == "cond":
            branches = [_Tally(tally.scope_depth) for _ in parameters["branches"]]
            for branch, into in zip(parameters["branches"], branches, strict=True):
                _count(branch.jaxpr, into, times, scope)
            tally.take(max(branches, key=lambda branch: sum(branch.by_primitive.values())))
        else:
            if name == "while":
                tally.open_loops += 1
            if name in _OPAQUE:
                tally.opaque[name] += times
            for inner in jaxpr_core.jaxprs_in_params(parameters):
                _count(inner, tally, times * _trips(equation), scope)


def _trips(equation) -> int:
    """How often an equation runs the jaxprs inside it."""
    name, parameters = equation.primitive.name, equation.params
    if name == "scan":
        return parameters["length"]
    if name == "shard_map":
        sizes = dict(parameters["mesh"].shape)
        return math.prod(sizes[axis] for axis in parameters["newly_manual_axes"])
    if name == "pallas_call":
        return math.prod(parameters["grid_mapping"].grid)
    return 1


def _joined(outer: tuple[str, ...], equation) -> tuple[str, ...]:
    """Names of the scopes around an equation, outermost first, without the transformations' own."""
    stack = _TRANSFORM.sub("", str(equation.source_info.name_stack))
    parts = (*outer, *(part for part in stack.split("/") if part not in _MACHINERY))
    # A recomputed equation stands in its scope twice: once for the gradient, once for the recomputation.
    for half in range(len(parts) // 2, 0, -1):
        if parts[:half] == parts[half : 2 * half]:
            return parts[half:]
    return parts


def _dot_general(equation) -> int:
    left, right = (v.aval.shape for v in equation.invars[:2])
    (left_contracted, _), (left_batch, _) = equation.params["dimension_numbers"]
    contracted = math.prod(left[axis] for axis in left_contracted)
    batch = math.prod(left[axis] for axis in left_batch)
    return 2 * math.prod(left) * math.prod(right) // (contracted * batch) if contracted * batch else 0


def _convolution(equation) -> int:
    parameters = equation.params
    numbers = parameters["dimension_numbers"]
    source, kernel, result = (v.aval.shape for v in (*equation.invars[:2], *equation.outvars))
    pairs = 1
    for place, (low, _) in enumerate(parameters["padding"]):
        size, taps, places = (
            shape[spec[2 + place]]
            for shape, spec in ((source, numbers.lhs_spec), (kernel, numbers.rhs_spec), (result, numbers.out_spec))
        )
        stride, stretch, apart = (
            parameters[name][place] for name in ("window_strides", "lhs_dilation", "rhs_dilation")
        )
        pairs *= real_pairs(size, taps, places, stride=stride, low=low, stretch=stretch, apart=apart)
    batch, features = (result[axis] for axis in numbers.out_spec[:2])
    return 2 * batch * features * kernel[numbers.rhs_spec[1]] * pairs


@functools.lru_cache(maxsize=4096)
def real_pairs(size: int, taps: int, places: int, *, stride: int, low: int, stretch: int, apart: int) -> int:
    """Pairs of a place of the result and a tap of the window that meet an element of the source, along one dimension.

    size, taps, places: of source, window and result. low: padding before the source; stretch, apart: the dilations of
    source and window. What falls on padding or between dilated elements is no pair.
    """
    first = np.arange(places, dtype=np.int64) * stride - low
    found = 0
    for tap in range(taps):
        position = first + tap * apart
        real = (position >= 0) & (position <= (size - 1) * stretch) & (position % stretch == 0)
        found += int(real.sum())
    return found


def _cudnn_attention(products: int) -> Callable[[Any], int]:
    """So many products of the size of the scores; query and key are [B,T,H,K] and [B,S,G,K]."""

    def cost(equation) -> int:
        batch, queries, heads, width = equation.invars[0].aval.shape
        return products * 2 * batch * heads * queries * equation.invars[1].aval.shape[1] * width

    return cost


_COSTS: dict[str, Callable[[Any], int]] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "dot_product_attention_fwd_wrapper": _cudnn_attention(2),
    "dot_product_attention_bwd_wrapper": _cudnn_attention(5),
}
