"""Logical axes -> mesh axes: the rules tables, constraints on activations, and parameters made in their shards.

Modules name logical axes only. One table says where arrays lie while they are used: batches by rows, heads and
feed-forward over `tensor`, text positions over `sequence`. A table for each strategy says where parameters (and so
their optimizer state) lie between uses; `parallel.gathering` brings a layer's from there. Where an array's
dimension does not divide, or its mesh axis is taken by an earlier dimension of the same array, it stays whole.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.core.arrays import Array, Shaped
from mmjax.core.config import nearest
from mmjax.core.errors import MmjaxError
from mmjax.core.paths import flatten, unflatten
from mmjax.parallel.mesh import Strategy

Axes = tuple[str | None, ...]
# What the first axis of an activation counts: rows of a batch, or pictures of all rows.
Rows = Literal["batch", "image"]

# Where arrays lie while they are used.
RULES: dict[str, tuple[str, ...]] = {
    "batch": ("slice", "data", "fsdp"),
    "image": ("slice", "data", "fsdp", "sequence"),  # pictures of all rows, one after the other
    "length": ("sequence",),
    "embed": (),
    "mlp": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head_dim": (),
    "vocab": ("tensor",),
    "patch": (),
    "latent": (),
    "layers": (),
}

# Where parameters lie between uses: each dimension takes what its name says, then what is left of `spread` goes to
# the largest dimensions that divide (never to `layers`, of which a scan takes one at a time).
_TENSOR = {axis: RULES[axis] for axis in ("mlp", "heads", "kv_heads", "vocab")}
STORAGE: dict[Strategy, tuple[dict[str, tuple[str, ...]], tuple[str, ...]]] = {
    "hybrid": ({"embed": ("fsdp",), **_TENSOR}, ()),
    "full": ({"embed": ("fsdp",), **_TENSOR}, ("data", "sequence", "fsdp", "tensor")),
    "global": ({"embed": ("fsdp",), **_TENSOR}, ("data", "sequence", "slice", "fsdp", "tensor")),
}
# Parameters of fewer elements are spread by name only: to gather many small pieces takes longer than they take room.
_SPREAD_FROM = 2**12


@dataclasses.dataclass(frozen=True)
class Current:
    """The mesh that is in use, and how parameters lie on it."""

    mesh: Mesh
    strategy: Strategy


_current: contextvars.ContextVar[Current | None] = contextvars.ContextVar("mmjax_mesh", default=None)


@contextlib.contextmanager
def use_mesh(mesh: Mesh | None, strategy: Strategy = "hybrid") -> Iterator[None]:
    """Within the block, `constrain` and `gathered` lay arrays out on `mesh`."""
    token = _current.set(None if mesh is None or mesh.size == 1 else Current(mesh, strategy))
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Current | None:
    """What the `use_mesh` around says, if its mesh has more than one device."""
    return _current.get()


def current_mesh() -> Mesh | None:
    """The mesh of the `use_mesh` around, if it has more than one device."""
    around = current()
    return None if around is None else around.mesh


def partition_spec(
    shape: tuple[int, ...], axes: Axes, mesh: Mesh, rules: Mapping[str, tuple[str, ...]] = RULES
) -> PartitionSpec:
    """The spec of an array with logical `axes` (None: never split) on `mesh`."""
    return _trimmed(_by_name(shape, axes, mesh, rules))


def storage_spec(shape: tuple[int, ...], axes: Axes, mesh: Mesh, strategy: Strategy = "hybrid") -> PartitionSpec:
    """The spec of a parameter between uses."""
    rules, spread = STORAGE[strategy]
    chosen = _by_name(shape, axes, mesh, rules)
    whole = [place for place, axis in enumerate(axes) if axis != "layers"]
    if math.prod(shape[place] for place in whole) < _SPREAD_FROM:
        return _trimmed(chosen)
    for mesh_axis in spread:
        if mesh.shape[mesh_axis] == 1 or any(mesh_axis in names for names in chosen):
            continue
        left = {place: shape[place] // math.prod(mesh.shape[name] for name in chosen[place]) for place in whole}
        fitting = [place for place in whole if left[place] % mesh.shape[mesh_axis] == 0]
        if fitting:
            # An unsplit dimension first: pieces along two dimensions are gathered along two dimensions of the torus.
            chosen[min(fitting, key=lambda place: (bool(chosen[place]), -left[place]))].append(mesh_axis)
    return _trimmed(chosen)


def _by_name(shape, axes, mesh, rules) -> list[list[str]]:
    if len(shape) != len(axes):
        raise MmjaxError(f"an array of shape {shape} was given the logical axes {axes}: their numbers differ")
    taken: set[str] = set()
    chosen: list[list[str]] = []
    for size, axis in zip(shape, axes, strict=True):
        if axis is not None and axis not in RULES:
            raise MmjaxError(f"{axis!r} is not a logical axis{nearest(axis, RULES)}")
        names: list[str] = []
        for mesh_axis in rules.get(axis, ()) if axis else ():
            ways = math.prod(mesh.shape[name] for name in (*names, mesh_axis))
            if mesh.shape[mesh_axis] > 1 and mesh_axis not in taken and size % ways == 0:
                names.append(mesh_axis)
        taken.update(names)
        chosen.append(names)
    return chosen


def _trimmed(chosen: list[list[str]]) -> PartitionSpec:
    spec: list[Any] = [tuple(names) if len(names) > 1 else names[0] if names else None for names in chosen]
    while spec and spec[-1] is None:
        spec.pop()
    return PartitionSpec(*spec)


def mesh_axes_of(spec: PartitionSpec, place: int) -> tuple[str, ...]:
    """The mesh axes over which a spec splits dimension `place`."""
    entry = spec[place] if place < len(spec) else None
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def constrain(x: Shaped[Array, ...], *axes: str | None) -> Shaped[Array, ...]:
    """Asks the compiler to lay `x` out by its logical `axes`; does nothing outside `use_mesh`."""
    mesh = current_mesh()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, partition_spec(x.shape, axes, mesh)))


def on_each_device(
    function: Callable[..., Array], axes: Sequence[tuple[str | None, ...]], *arguments: Shaped[Array, ...]
) -> Shaped[Array, ...]:
    """`function` of the part of each argument that a device holds by its logical `axes`.

    The result lies like the first argument. Outside `use_mesh`, the parts are the whole arrays.
    """
    mesh = current_mesh()
    if mesh is None:
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
    token = _shapes_alone.set(True)
    try:
        boxed = flatten(jax.eval_shape(_abstract(init), *arguments)["params"])
    finally:
        _shapes_alone.reset(token)
    axes = {path: tuple(leaf.names) if isinstance(leaf, nn.meta.AxisMetadata) else () for path, leaf in boxed.items()}
    shapes = {path: leaf.unbox() if isinstance(leaf, nn.meta.AxisMetadata) else leaf for path, leaf in boxed.items()}
    for path, shape in shapes.items():
        if len(axes[path]) != len(shape.shape):
            axes[path] = axes[path] + (None,) * (len(shape.shape) - len(axes[path]))
    return shapes, axes


_shapes_alone: contextvars.ContextVar[bool] = contextvars.ContextVar("shapes_alone", default=False)


@functools.lru_cache(maxsize=64)
def _abstract(init: Callable[..., Any]) -> Callable[..., Any]:
    """`init` as another function, so that what is traced of it for shapes alone is never taken for itself."""
    return lambda *arguments: init(*arguments)


def starting(init: Callable[..., Any]) -> Callable[..., Any]:
    """`init`, or where shapes alone are asked for, zeros: random numbers are most of what there is to trace."""
    if not _shapes_alone.get():
        return init
    return lambda key, shape, dtype=jax.numpy.float32: jax.numpy.zeros(shape, dtype)


def parameter_shardings(
    shapes: Mapping[str, Any], axes: Mapping[str, tuple], mesh: Mesh, strategy: Strategy = "hybrid"
) -> dict[str, NamedSharding]:
    """The sharding of every parameter on `mesh`, by path."""
    return {path: NamedSharding(mesh, storage_spec(shapes[path].shape, axes[path], mesh, strategy)) for path in shapes}


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
    bytes: int
    replicated: bool


def audit(
    shapes: Mapping[str, Any], axes: Mapping[str, tuple], mesh: Mesh, strategy: Strategy = "hybrid"
) -> list[AuditRow]:
    """One row per parameter, in order of path."""
    rows = []
    for path in sorted(shapes):
        shape = shapes[path]
        sharding = NamedSharding(mesh, storage_spec(shape.shape, axes[path], mesh, strategy))
        shard = sharding.shard_shape(shape.shape)
        replicated = shard == shape.shape and mesh.size > 1
        each, whole = (math.prod(one) * shape.dtype.itemsize for one in (shard, shape.shape))
        rows.append(AuditRow(path, shape.shape, axes[path], sharding.spec, each, whole, replicated))
    return rows


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Flat parameters as the `{"params": ...}` variables that a Linen module's `apply` takes."""
    return {"params": unflatten(flat)}
