"""Programs that the tests compile for absent TPUs; what each must do is known by construction.

Each function is a builder for `mmjax.planning.compiler.compile_program`.
"""

import os
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.core.errors import ConfigError
from mmjax.planning.child import Program
from mmjax.planning.gathers import stacked_pieces
from mmjax.planning.topology import parse_topology


def _mesh(topology, axes, slices=1, shuffled=False):
    devices = parse_topology(topology, slices).devices()
    sizes = tuple(axes.values())
    if slices > 1:
        inside = (sizes[0] // slices, *sizes[1:])
        grid = mesh_utils.create_hybrid_device_mesh(
            inside, (slices, *(1,) * len(inside[1:])), devices=devices, allow_split_physical_axes=True
        )
    else:
        grid = mesh_utils.create_device_mesh(sizes, devices=devices, allow_split_physical_axes=True)
    if shuffled:
        grid = grid.reshape(-1)[np.random.default_rng(0).permutation(grid.size)].reshape(sizes)
    return Mesh(grid, tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def explicit(topology, axes, layers, rows, width, slices=1, unroll=1, shuffled=False):
    """Collectives written out, over `fsdp`, `tensor` and (with several slices) the first axis, which crosses them.

    Each layer gathers its weights over fsdp and sums over tensor; then come a ring, a scatter and a sum over slices.
    """
    mesh = _mesh(topology, axes, slices, shuffled)
    ring = [(i, (i + 1) % axes["fsdp"]) for i in range(axes["fsdp"])]

    def local(weights, x):
        def layer(x, w):
            w = jax.lax.all_gather(w, "fsdp", axis=0, tiled=True)
            return jax.lax.psum(jnp.tanh(x @ w), "tensor"), None

        x, _ = jax.lax.scan(layer, x, weights, unroll=unroll)
        x = jax.lax.ppermute(x, "fsdp", ring).astype(jnp.float32)
        x = jax.lax.psum_scatter(x, "fsdp", scatter_dimension=1, tiled=True)
        return jax.lax.psum(x, next(iter(axes))) if slices > 1 else x

    batch = tuple(axis for axis in axes if axis != "tensor")
    specs = P(None, "fsdp", None), P(batch)
    step = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(None, "fsdp"), check_vma=False))
    groups = mesh.size // axes["tensor"]
    shapes = (layers, width, width), (rows * groups, width)
    arguments = [
        jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, spec))
        for shape, spec in zip(shapes, specs, strict=True)
    ]
    return Program(step.trace(*arguments), {"devices": mesh.size})


def gathers_stacks(topology, axes, layers, width, along):
    """Weights of all layers, split over `fsdp` and `tensor`, gathered along some of these before the loop."""
    mesh = _mesh(topology, axes)
    spec = P(None, "fsdp", "tensor")

    def local(weights, x):
        for place, axis in enumerate(("fsdp", "tensor"), 1):
            if axis in along:
                weights = jax.lax.all_gather(weights, axis, axis=place, tiled=True)

        def layer(x, w):
            return jnp.tanh(x[:, : w.shape[0]] @ w).sum() + x, None

        return jax.lax.scan(layer, x, weights)[0]

    step = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(spec, P()), out_specs=P(), check_vma=False))
    weights = jax.ShapeDtypeStruct((layers, width, width), jnp.bfloat16, sharding=NamedSharding(mesh, spec))
    x = jax.ShapeDtypeStruct((8, width), jnp.bfloat16, sharding=NamedSharding(mesh, P()))
    pieces = stacked_pieces(weights.shape, ("layers", "embed", "mlp"), spec, dict(mesh.shape))
    return Program(step.trace(weights, x), {"pieces": pieces})


def trained(topology, axes, layers, rows, width, donate=True):
    """A step of plain gradient descent on a scanned feed-forward net, sharded by the compiler; `state` is donated."""
    mesh = _mesh(topology, axes)

    def loss(state, x):
        def layer(x, w):
            up, down = w
            hidden = jax.lax.with_sharding_constraint(jax.nn.gelu(x @ up), NamedSharding(mesh, P("fsdp", "tensor")))
            return jax.lax.with_sharding_constraint(x + hidden @ down, NamedSharding(mesh, P("fsdp"))), None

        x, _ = jax.lax.scan(jax.checkpoint(layer), x, (state["up"], state["down"]))
        return jnp.mean(jnp.square(x.astype(jnp.float32)))

    def step(state, x):
        value, gradient = jax.value_and_grad(loss)(state, x)
        return jax.tree.map(lambda w, g: w - g, state, gradient), value

    def abstract(shape, spec):
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, spec))

    state = {
        "up": abstract((layers, width, 4 * width), P(None, "fsdp", "tensor")),
        "down": abstract((layers, 4 * width, width), P(None, "tensor", "fsdp")),
    }
    traced = jax.jit(step, donate_argnums=0 if donate else ()).trace(state, abstract((rows, width), P("fsdp")))
    return Program(traced, {"layers": layers})


def refused():
    """A builder that finds its arguments wrong."""
    raise ConfigError("width must divide by 3")


def broken():
    """A builder with a fault of its own."""
    raise ZeroDivisionError("no layers")


def killed():
    """A process that dies without a word."""
    os.abort()


def endless(note):
    """Never done; leaves its process id."""
    pathlib.Path(note).write_text(str(os.getpid()))
    time.sleep(600)
