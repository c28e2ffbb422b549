"""The programs of a configuration, traced on the mesh of absent devices: the train step, prefill and decode.

`start`, `train`, `prefill` and `decode` are builders for `mmjax.planning.compiler`: they run in its child process.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.core.batch import Batch
from mmjax.core.config import build
from mmjax.core.errors import InputError
from mmjax.models.decoders.decoder import DecoderCache, Media, empty_cache
from mmjax.models.families import forward
from mmjax.ops.attention import target_platform
from mmjax.ops.flops import count_jaxpr_flops
from mmjax.parallel.mesh import AXES, make_mesh
from mmjax.parallel.sharding import batch_sharding, nested, partition_spec, use_mesh
from mmjax.planning.child import Program
from mmjax.planning.gathers import stacked_pieces
from mmjax.planning.topology import Topology, parse_topology
from mmjax.training.load import abstract_batch
from mmjax.training.run import RunConfig
from mmjax.training.state import Plan, plan_state, state_maker
from mmjax.training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class ServingShape:
    """Rows that are written at the same time, tokens of their prompts, and tokens that are written after them."""

    rows: int
    prompt: int
    new: int


def train(config: Mapping[str, Any], topology: str, slices: int) -> Program:
    """The whole train step, its state donated."""
    run, mesh, facts = _prepared(config, topology, slices)
    with target_platform("tpu"):
        step, plan, batch = train_step(run, mesh)
        traced = jax.jit(step, donate_argnums=0).trace(plan.abstract, batch)
        facts |= _counted(traced)
    state = plan.abstract
    facts |= _sizes(state, parameters=(state.params, state.frozen, state.ema), optimizer=state.optimizer, data=batch)
    facts["gradient_bytes"] = _bytes(state.params)
    facts["stacked_pieces"] = _pieces(plan)
    return Program(traced, facts)


def train_step(run: RunConfig, mesh: Mesh) -> tuple[Any, Plan, Batch]:
    """The step's function, the plan of its state, and its abstract batch, placed on `mesh`."""
    model = run.model.build(run.dtype)
    batch = _placed(mesh, abstract_batch(run.data, run.batch_size))
    plan = plan_state(run, model, batch, mesh)
    weights = [run.data.sources[name].loss_weight for name in sorted(run.data.sources)]
    return make_train_step(run, model, plan, mesh, weights), plan, batch


def start(config: Mapping[str, Any], topology: str, slices: int) -> Program:
    """What makes the first state of a run, each device its shards."""
    run, mesh, facts = _prepared(config, topology, slices)
    model = run.model.build(run.dtype)
    plan = plan_state(run, model, abstract_batch(run.data, run.batch_size), mesh)
    row = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape[1:]), leaf.dtype), abstract_batch(run.data, 1))
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=NamedSharding(mesh, PartitionSpec()))
    with target_platform("tpu"):
        traced = state_maker(run, model, row, plan).trace(key)
    return Program(traced, facts | _sizes(plan.abstract))


def prefill(config: Mapping[str, Any], topology: str, slices: int, shape: Mapping[str, int]) -> Program:
    """Prompts with all their pictures -> the next token of each row, and a cache."""
    run, mesh, facts = _prepared(config, topology, slices)
    serving = ServingShape(**shape)
    with target_platform("tpu"):
        read, params, batch, cache = prefill_step(run, mesh, serving)
        traced = jax.jit(read, donate_argnums=2).trace(params, batch, cache)
        facts |= _counted(traced)
    facts |= _sizes((params, cache), parameters=params, cache=cache, data=batch)
    return Program(traced, facts)


def prefill_step(run: RunConfig, mesh: Mesh, serving: ServingShape) -> tuple[Any, Any, Batch, DecoderCache]:
    """The function that reads prompts, and its abstract arguments, placed on `mesh`."""
    model = run.model.build(run.dtype)
    params = _served(run, model, mesh)
    data = dataclasses.replace(run.data, length=serving.prompt)
    batch = _placed(mesh, abstract_batch(data, serving.rows))
    cache = _cache(run, model, mesh, serving)

    def read(params, batch, cache):
        kept = {} if cache is None else {"cache": cache, "write_index": batch.positions}
        with use_mesh(mesh, run.mesh.strategy):
            return _chosen(forward(model, nested(params), batch, **kept))

    return read, params, batch, cache


def decode(config: Mapping[str, Any], topology: str, slices: int, shape: Mapping[str, int]) -> Program:
    """One more token of every row, against the cache, which is donated."""
    run, mesh, facts = _prepared(config, topology, slices)
    serving = ServingShape(**shape)
    with target_platform("tpu"):
        write, arguments = decode_step(run, mesh, serving)
        traced = jax.jit(write, donate_argnums=1).trace(*arguments)
        facts |= _counted(traced)
    params, cache, *data = arguments
    facts |= _sizes((params, cache), parameters=params, cache=cache, data=data)
    return Program(traced, facts)


def decode_step(run: RunConfig, mesh: Mesh, serving: ServingShape) -> tuple[Any, tuple]:
    """The function that writes a token, and its abstract arguments, placed on `mesh`."""
    model = run.model.build(run.dtype)
    params, cache = _served(run, model, mesh), _cache(run, model, mesh, serving)
    rows = _placed(mesh, jax.ShapeDtypeStruct((serving.rows, 1), jnp.int32))
    media = _placed(mesh, jax.ShapeDtypeStruct((serving.rows, max(1, _media_length(run, model))), jnp.int32))

    def write(params, cache, tokens, places, looks_at, media_segments):
        with use_mesh(mesh, run.mesh.strategy):
            further: dict[str, Any] = {"cache": cache, "write_index": places}
            if run.model.family == "flamingo":
                further |= {"media": Media(None, media_segments), "media_index": looks_at}
            ones = jnp.ones_like(tokens)
            return _chosen(model.apply(nested(params), tokens, places, ones, method="decode", **further))

    return write, (params, cache, rows, rows, rows, media)


def _chosen(output) -> tuple[Any, DecoderCache]:
    """The likeliest next token of each row, and the cache."""
    last = output.hidden[:, -1]
    scores = jnp.einsum("bd,vd->bv", last, output.unembedding.astype(last.dtype), preferred_element_type=jnp.float32)
    return jnp.argmax(scores, axis=-1), output.cache


def _prepared(config: Mapping[str, Any], topology: str, slices: int) -> tuple[RunConfig, Mesh, dict[str, Any]]:
    run = build(RunConfig, config)
    place = parse_topology(topology, slices)
    mesh = make_mesh(run.mesh, place.devices())
    facts = {
        "mesh": dict(mesh.shape),
        "axes": axes_on_torus(mesh, place),
        "across": _across(mesh),
        "stacked_pieces": [],
    }
    return run, mesh, facts


def _counted(traced: jax.stages.Traced) -> dict[str, int]:
    """FLOPs of the program as it is written, over all devices; those of attention kernels apart too."""
    count = count_jaxpr_flops(traced.jaxpr, scope_depth=99)
    kernels = sum(flops for scope, flops in count.by_scope.items() if "_sparsity_splash" in scope)
    return {"hardware_flops": count.total, "kernel_flops": kernels}


def _pieces(plan: Plan) -> list[tuple[int, list[int]]]:
    """Of the parameters of all layers of a tower: see `mmjax.planning.gathers`."""
    state = plan.abstract.all_params()
    found = [
        stacked_pieces(leaf.shape, plan.axes[path], leaf.sharding.spec, dict(leaf.sharding.mesh.shape))
        for path, leaf in state.items()
    ]
    return [one for one in found if one]


def axes_on_torus(mesh: Mesh, topology: Topology) -> dict[str, list[list[int]]]:
    """For each mesh axis: [torus dimension, places along it] of every dimension that it runs along in a slice."""
    found = {}
    for number, axis in enumerate(AXES):
        line = np.moveaxis(mesh.devices, number, 0).reshape(mesh.shape[axis], -1)[:, 0]
        first = getattr(line[0], "slice_index", 0)
        coordinates = np.array([device.coords for device in line if getattr(device, "slice_index", 0) == first])
        sizes = [len(set(column)) for column in coordinates.T[: len(topology.shape)]]
        found[axis] = [[dimension, size] for dimension, size in enumerate(sizes) if size > 1]
    return found


def _across(mesh: Mesh) -> dict[str, int]:
    """Over how many slices each axis runs, where it runs over more than one."""
    ways = {}
    for number, axis in enumerate(AXES):
        line = np.moveaxis(mesh.devices, number, 0).reshape(mesh.shape[axis], -1)[:, 0]
        slices = len({getattr(device, "slice_index", 0) or 0 for device in line})
        if slices > 1:
            ways[axis] = slices
    return ways


def _placed(mesh: Mesh, tree: Any) -> Any:
    def place(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=batch_sharding(mesh, leaf.shape))

    return jax.tree.map(place, tree)


def _served(run: RunConfig, model: nn.Module, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The parameters as they are served: in the dtype of the computation."""
    state = plan_state(run, model, abstract_batch(run.data, run.batch_size), mesh).abstract
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, run.dtype, sharding=leaf.sharding)
        for path, leaf in state.all_params().items()
    }


def _media_length(run: RunConfig, model: nn.Module) -> int:
    if run.model.family != "flamingo":
        return 0
    resampler = model.config.resampler
    return run.data.images * (resampler.latents if resampler else model.config.vision.grid**2)


def _cache(run: RunConfig, model: nn.Module, mesh: Mesh, serving: ServingShape) -> DecoderCache:
    cross = getattr(model.config, "cross", None)
    shapes = {"batch": serving.rows, "length": serving.prompt + serving.new, "media_length": _media_length(run, model)}
    cache = jax.eval_shape(lambda: empty_cache(model.config.decoder, cross, dtype=run.dtype, **shapes))

    def place(leaf):
        axes = {2: ("batch", None), 4: ("batch", None, "kv_heads", None)}
        names = axes.get(leaf.ndim, ("layers", "batch", None, "kv_heads", None))
        return jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, partition_spec(leaf.shape, names, mesh))
        )

    return jax.tree.map(place, cache)


def check_serving(run: RunConfig) -> None:
    """Raises InputError for a model that writes no text."""
    if run.model.known_family().gives != "text":
        raise InputError(f"a model of the family {run.model.family} writes no text: plan its train step alone")


def _sizes(state: Any, **parts: Any) -> dict[str, Any]:
    """Bytes on one device of each part and of the state, and of the state of all devices, each copy once."""
    told = {name: _bytes(tree) for name, tree in parts.items()}
    return {"parts": told, "state_bytes": _bytes(state), "whole_state_bytes": _whole_bytes(state)}


def _bytes(tree: Any) -> int:
    """Bytes on one device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def _whole_bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
