"""Logical axes -> mesh axes: the rules table, constraints on activations, and parameters made in their shards.

Modules name logical axes only. One table maps them to mesh axes; where an array's dimension does not divide, or
its mesh axis is already taken by an earlier dimension of the same array, the dimension stays whole. So
an activation (batch, length, embed) spends `fsdp` on its batch, and a kernel (embed, mlp) on its embed.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.core.arrays import Array, Shaped
from mmjax.core.config import nearest
from mmjax.core.errors import MmjaxError
from mmjax.core.paths import flatten, unflatten

RULES: dict[str, tuple[str, ...]] = {
    "batch": ("slice", "data", "fsdp"),
    "length": ("sequence",),
    "embed": ("fsdp",),
    "mlp": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head_dim": (),
    "vocab": ("tensor",),
    "patch": (),
    "latent": (),
    "layers": (),
    "image": (),
}

_current_mesh: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar("mmjax_mesh", default=None)


@contextlib.contextmanager
def use_mesh(mesh: Mesh | None) -> Iterator[None]:
    """Within the block, `constrain` lays activations out on `mesh`."""
    token = _current_mesh.set(mesh)
    try:
        yield
    finally:
        _current_mesh.reset(token)


def partition_spec(shape: tuple[int, ...], axes: tuple[str | None, ...], mesh: Mesh) -> PartitionSpec:
    """The spec of an array with logical `axes` (None: never split) on `mesh`."""
    if len(shape) != len(axes):
        raise MmjaxError(f"an array of shape {shape} was given the logical axes {axes}: their numbers differ")
    taken: set[str] = set()
    spec: list[Any] = []
    for size, axis in zip(shape, axes, strict=True):
        if axis is not None and axis not in RULES:
            raise MmjaxError(f"{axis!r} is not a logical axis{nearest(axis, RULES)}")
        chosen: list[str] = []
        for mesh_axis in RULES[axis] if axis else ():
            ways = math.prod(mesh.shape[name] for name in (*chosen, mesh_axis))
            if mesh.shape[mesh_axis] > 1 and mesh_axis not in taken and size % ways == 0:
                chosen.append(mesh_axis)
        taken.update(chosen)
        spec.append(tuple(chosen) if len(chosen) > 1 else chosen[0] if chosen else None)
    while spec and spec[-1] is None:
        spec.pop()
    return PartitionSpec(*spec)


def constrain(x: Shaped[Array, ...], *axes: str | None) -> Shaped[Array, ...]:
    """Asks the compiler to lay `x` out by its logical `axes`; does nothing outside `use_mesh`."""
    mesh = _current_mesh.get()
    if mesh is None or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, partition_spec(x.shape, axes, mesh)))


def on_each_device(
    function: Callable[..., Array], axes: Sequence[tuple[str | None, ...]], *arguments: Shaped[Array, ...]
) -> Shaped[Array, ...]:
    """`function` of the part of each argument that a device holds by its logical `axes`.

    The result lies like the first argument. Outside `use_mesh`, the parts are the whole arrays.
    """
    mesh = _current_mesh.get()
    if mesh is None or mesh.size == 1:
        return function(*arguments)
    specs = tuple(partition_spec(x.shape, names, mesh) for x, names in zip(arguments, axes, strict=True))
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=specs[0])(*arguments)


def batch_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Rows of a batch over the batch axes of the mesh; every other dimension whole."""
    axes = ("batch",) + (None,) * (len(shape) - 1) if shape else ()
    return NamedSharding(mesh, partition_spec(shape, axes, mesh))


def abstract_parameters(init: Callable[..., Any], *arguments: Any) -> tuple[dict[str, Any], dict[str, tuple]]:
    """Shapes and logical axes of a Linen module's parameters, by path, without making them.

    `init` is `model.init` with everything but its arguments bound; returns ({path: ShapeDtypeStruct}, {path: axes}).
    """
    boxed = flatten(jax.eval_shape(init, *arguments)["params"])
    axes = {path: tuple(leaf.names) if isinstance(leaf, nn.meta.AxisMetadata) else () for path, leaf in boxed.items()}
    shapes = {path: leaf.unbox() if isinstance(leaf, nn.meta.AxisMetadata) else leaf for path, leaf in boxed.items()}
    for path, shape in shapes.items():
        if len(axes[path]) != len(shape.shape):
            axes[path] = axes[path] + (None,) * (len(shape.shape) - len(axes[path]))
    return shapes, axes


def parameter_shardings(shapes: Mapping[str, Any], axes: Mapping[str, tuple], mesh: Mesh) -> dict[str, NamedSharding]:
    """The sharding of every parameter on `mesh`, by path."""
    return {path: NamedSharding(mesh, partition_spec(shapes[path].shape, axes[path], mesh)) for path in shapes}


def init_sharded(init: Callable[..., Any], mesh: Mesh, *arguments: Any) -> dict[str, Any]:
    """Makes a module's parameters straight into their shards; returns the flat dictionary by path.

    Random numbers do not depend on the mesh (threefry is partitionable), so neither do the parameters.
    """
    shapes, axes = abstract_parameters(init, *arguments)
    shardings = parameter_shardings(shapes, axes, mesh)

    def make(*arguments):
        return flatten(nn.meta.unbox(init(*arguments)["params"]))

    return jax.jit(make, out_shardings=shardings)(*arguments)


@dataclasses.dataclass(frozen=True)
class AuditRow:
    """Where one parameter lies: its shape, logical axes, spec, and bytes on each device."""

    path: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    spec: PartitionSpec
    bytes_per_device: int
    replicated: bool


def audit(shapes: Mapping[str, Any], axes: Mapping[str, tuple], mesh: Mesh) -> list[AuditRow]:
    """One row per parameter, in order of path."""
    rows = []
    for path in sorted(shapes):
        shape = shapes[path]
        sharding = NamedSharding(mesh, partition_spec(shape.shape, axes[path], mesh))
        shard = sharding.shard_shape(shape.shape)
        size = math.prod(shard) * shape.dtype.itemsize
        rows.append(
            AuditRow(path, shape.shape, axes[path], sharding.spec, size, shard == shape.shape and mesh.size > 1)
        )
    return rows


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Flat parameters as the `{"params": ...}` variables that a Linen module's `apply` takes."""
    return {"params": unflatten(flat)}
