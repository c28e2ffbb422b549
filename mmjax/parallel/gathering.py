"""Parameters brought from where they lie to where they are used, and their gradients back: FSDP, one axis at a time.

Every gather and every scatter is written out along one mesh axis after the other, so that each runs along one
dimension of a torus. Left to the compiler, those over two dimensions become all-reduces of padded or sliced arrays.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.core.arrays import Array, Shaped
from mmjax.parallel.sharding import RULES, Axes, current, mesh_axes_of, partition_spec, storage_spec


@dataclasses.dataclass(frozen=True)
class _Way:
    """A parameter's way from the spec in which it is kept to that in which it is used.

    steps: (dimension, mesh axis) of every gather, in order; None where one spec does not refine the other.
    """

    mesh: Mesh
    kept: PartitionSpec
    used: PartitionSpec
    steps: tuple[tuple[int, str], ...] | None

    def constrain(self, x: Array, spec: PartitionSpec) -> Array:
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))


def _way(shape: tuple[int, ...], axes: Axes, rules: Mapping[str, tuple[str, ...]]) -> _Way | None:
    """None where there is no mesh."""
    around = current()
    if around is None:
        return None
    mesh = around.mesh
    used = partition_spec(shape, axes, mesh, rules)
    kept = storage_spec(shape, axes, mesh, around.strategy)
    steps: list[tuple[int, str]] | None = []
    # The outermost dimension last, and so the first to be scattered: arrays that are cut between their rows are cut
    # by the network itself, those that are cut between few columns would be summed whole.
    for place in reversed(range(len(shape))):
        before, after = mesh_axes_of(kept, place), mesh_axes_of(used, place)
        if before[: len(after)] != after:
            return _Way(mesh, kept, used, None)
        steps += [(place, axis) for axis in reversed(before[len(after) :])]
    return _Way(mesh, kept, used, tuple(steps))


def gathered(
    parameter: Shaped[Array, ...], *axes: str | None, rules: Mapping[str, tuple[str, ...]] = RULES
) -> Shaped[Array, ...]:
    """A parameter with these logical axes as it is used (by `rules`), brought from where it lies; its gradient goes
    back there.

    Cast it to the dtype of the computation first, so that no more than that is sent. Outside `use_mesh`, itself.
    """
    way = _way(parameter.shape, axes, rules)
    return parameter if way is None else _gather(way, parameter)


def gathered_dot(
    x: Shaped[Array, ...], parameter: Shaped[Array, ...], contracted: int, x_axes: Axes, axes: Axes
) -> Shaped[Array, ...]:
    """Contracts the last `contracted` dimensions of `x` with the first of a parameter, which is gathered for it.

    x_axes: the logical axes of `x`; axes: those of the parameter. Each device multiplies its own rows for the
    parameter's gradient; then these products are summed and cut where the parameter lies.
    """
    way = _way(parameter.shape, axes, RULES)
    if way is None:
        return _dot(x, parameter, contracted)
    x_spec = partition_spec(x.shape, x_axes, way.mesh)
    summed = [axis for place in range(x.ndim - contracted) for axis in mesh_axes_of(x_spec, place)]
    if way.steps is None or any(axis not in summed for _, axis in way.steps):
        return _dot(x, _gather(way, parameter), contracted)
    return _gathered_dot(way, x_spec, contracted, x, parameter)


def _dot(x, kernel, contracted):
    dimensions = (tuple(range(x.ndim - contracted, x.ndim)), tuple(range(contracted)))
    return jax.lax.dot_general(x, kernel, (dimensions, ((), ())))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(way: _Way, x):
    if way.steps is None:
        return way.constrain(way.constrain(x, way.kept), way.used)

    def run(x):
        for place, axis in way.steps:
            x = jax.lax.all_gather(x, axis, axis=place, tiled=True)
        return x

    return jax.shard_map(run, mesh=way.mesh, in_specs=way.kept, out_specs=way.used, check_vma=False)(x)


def _gather_forward(way, x):
    return _gather(way, x), None


def _gather_backward(way, _, gradient):
    return (way.constrain(gradient, way.kept),)


_gather.defvjp(_gather_forward, _gather_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _gathered_dot(way: _Way, x_spec: PartitionSpec, contracted: int, x, parameter):
    return _dot(x, _gather(way, parameter), contracted)


def _dot_forward(way, x_spec, contracted, x, parameter):
    # What does not train needs no inputs kept for its gradient.
    kept_x = x.value if parameter.perturbed else None
    kept_parameter = parameter.value if x.perturbed else None
    # The product stands open, so that a policy of what is recomputed sees it.
    return _dot(x.value, _gather(way, parameter.value), contracted), (kept_x, kept_parameter)


def _dot_backward(way, x_spec, contracted, kept, gradient):
    x, parameter = kept
    if isinstance(gradient, jax.custom_derivatives.SymbolicZero):
        gradient = jnp.zeros(gradient.shape, gradient.dtype)
    x_gradient = parameter_gradient = None
    if parameter is not None:
        kernel = _gather(way, parameter)
        outputs = kernel.ndim - contracted
        dimensions = (tuple(range(gradient.ndim - outputs, gradient.ndim)), tuple(range(contracted, kernel.ndim)))
        x_gradient = jax.lax.dot_general(gradient, kernel, (dimensions, ((), ())))
    if x is not None:
        parameter_gradient = _summed_products(way, x_spec, contracted, x, gradient)
    return x_gradient, parameter_gradient


def _summed_products(way: _Way, x_spec, contracted, x, gradient):
    """The parameter's gradient where it is kept: products of each device's rows, summed over all."""
    leading = x.ndim - contracted
    width = contracted + gradient.ndim - leading
    rows = [mesh_axes_of(x_spec, place) or None for place in range(leading)]
    columns = [mesh_axes_of(way.used, place) or None for place in range(width)]
    summed = tuple(axis for names in rows if names for axis in names)

    def run(x, gradient):
        over = tuple(range(leading))
        product = jax.lax.dot_general(x, gradient, ((over, over), ((), ())))
        for place, axis in reversed(way.steps):
            product = jax.lax.psum_scatter(product, axis, scatter_dimension=place, tiled=True)
        rest = tuple(axis for axis in summed if axis not in {axis for _, axis in way.steps})
        return jax.lax.psum(product, rest) if rest else product

    specs = PartitionSpec(*rows, *columns[:contracted]), PartitionSpec(*rows, *columns[contracted:])
    mapped = jax.shard_map(run, mesh=way.mesh, in_specs=specs, out_specs=way.kept, check_vma=False)
    return mapped(x, gradient)


_gathered_dot.defvjp(_dot_forward, _dot_backward, symbolic_zeros=True)
