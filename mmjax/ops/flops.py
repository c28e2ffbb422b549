"""Floating-point operations of a program, counted on its jaxpr: exact where the compiler counts a loop's body once."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.interpreters import partial_eval


@dataclasses.dataclass(frozen=True)
class FlopCount:
    """FLOPs of matrix products and convolutions (two for each multiply-add); elementwise work is not counted.

    by_primitive: by name of the operation. by_scope: by the path of modules it belongs to, as named scopes tell,
    forward and backward together. uncounted: operations whose work cannot be known (loops without a
    trip count are counted once, kernels without a cost estimate not at all) -> how often they appear.
    """

    total: int
    by_primitive: dict[str, int]
    by_scope: dict[str, int]
    uncounted: dict[str, int]


def count_flops(function: Callable[..., Any], *arguments: Any) -> FlopCount:
    """Counts `function(*arguments)`, whose arguments may be `jax.ShapeDtypeStruct`; nothing is computed.

    Work whose result is not used is left out, as a compiler leaves it out. A scan counts its body once a trip, a
    recomputation in the backward pass (`jax.checkpoint`) as often as it is done, a `cond` its dearest branch.
    """
    closed = jax.make_jaxpr(function)(*arguments)
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    counter = _Counter()
    counter.walk(jaxpr, 1, "")
    return FlopCount(
        sum(counter.by_primitive.values()),
        dict(counter.by_primitive),
        dict(counter.by_scope),
        dict(counter.uncounted),
    )


class _Counter:
    def __init__(self):
        self.by_primitive: collections.Counter[str] = collections.Counter()
        self.by_scope: collections.Counter[str] = collections.Counter()
        self.uncounted: collections.Counter[str] = collections.Counter()

    def walk(self, jaxpr, times: int, outer: str) -> None:
        for equation in jaxpr.eqns:
            name = equation.primitive.name
            scope = _join(outer, str(equation.source_info.name_stack))
            if name in _COSTS:
                flops = times * _COSTS[name](equation)
                self.by_primitive[name] += flops
                self.by_scope[scope] += flops
            elif name == "pallas_call":
                self._kernel(equation, times, scope)
            elif name == "cond":
                self._dearest(equation.params["branches"], times, scope)
            elif name == "while":
                self.uncounted[name] += times
                self.walk(equation.params["body_jaxpr"].jaxpr, times, scope)
            else:
                trips = equation.params["length"] if name == "scan" else 1
                for inner in _inner(equation.params):
                    self.walk(inner, times * trips, scope)

    def _kernel(self, equation, times, scope):
        estimate = equation.params.get("cost_estimate")
        if estimate is None:
            self.uncounted["pallas_call"] += times
            return
        self.by_primitive["pallas_call"] += times * estimate.flops
        self.by_scope[scope] += times * estimate.flops

    def _dearest(self, branches, times, scope):
        counters = []
        for branch in branches:
            counters.append(_Counter())
            counters[-1].walk(branch.jaxpr, times, scope)
        dearest = max(counters, key=lambda counter: counter.by_primitive.total())
        self.by_primitive += dearest.by_primitive
        self.by_scope += dearest.by_scope
        self.uncounted += dearest.uncounted


def _inner(parameters: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs among an operation's parameters; of a custom derivative rule, the function as it is."""
    for value in parameters.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            jaxpr = getattr(item, "jaxpr", item)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr


def _dot_general(equation) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _convolution(equation) -> int:
    """Every output sums over the kernel's window and input channels; zeros put between the inputs cost nothing."""
    parameters = equation.params
    kernel = equation.invars[1].aval.shape
    features = kernel[parameters["dimension_numbers"].rhs_spec[0]]
    window = math.prod(kernel) // features
    outputs = math.prod(equation.outvars[0].aval.shape)
    return 2 * outputs * window // (math.prod(parameters["lhs_dilation"]) * parameters["batch_group_count"])


_COSTS = {"dot_general": _dot_general, "conv_general_dilated": _convolution}

_WRAPPER = re.compile(r"^(jvp|transpose|vmap|remat|rematted_computation|checkpoint|jit|pjit|scan|while|body|cond)$")


def _join(outer: str, stack: str) -> str:
    """Named scopes, outermost first, without what transformations wrap around them."""
    parts = [part for part in re.split(r"[/()]", stack) if part and not _WRAPPER.match(part)]
    return "/".join([outer, *parts] if outer else parts)
