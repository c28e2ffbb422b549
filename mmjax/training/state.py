"""The state of a run: what a checkpoint holds, made straight into its shards."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.core.arrays import Array, Int
from mmjax.core.batch import Batch
from mmjax.core.paths import flatten
from mmjax.models.families import initializer
from mmjax.optim.groups import ParameterGroup, assign_groups
from mmjax.optim.optimizer import make_optimizer
from mmjax.parallel.sharding import abstract_parameters, parameter_shardings
from mmjax.training.run import RunConfig


@flax.struct.dataclass
class TrainState:
    """Parameters by path, those that train apart from those that are frozen.

    `skipped` counts the steps whose loss or gradient was not finite; `nonfinite_in_row` those since the last good one.
    """

    step: Int[Array, ""]
    params: dict[str, Array]
    frozen: dict[str, Array]
    optimizer: Any
    ema: dict[str, Array]
    skipped: Int[Array, ""]
    nonfinite_in_row: Int[Array, ""]

    def all_params(self) -> dict[str, Array]:
        """Every parameter by path."""
        return {**self.frozen, **self.params}

    def tree(self) -> dict[str, Any]:
        """The state as the dictionary that a checkpoint stores."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What can be said of a run's state before anything is made: shapes, logical axes, groups, shardings."""

    shapes: dict[str, jax.ShapeDtypeStruct]
    axes: dict[str, tuple]
    groups: dict[str, ParameterGroup]
    optimizer: optax.GradientTransformation
    abstract: TrainState

    @property
    def trainable(self) -> list[str]:
        """Paths of the parameters that get a gradient."""
        return [path for path, group in self.groups.items() if not group.frozen]


def plan_state(config: RunConfig, model: nn.Module, batch: Batch, mesh: Mesh) -> Plan:
    """Shapes and shardings of the whole state on `mesh`; `batch` may be abstract.

    Optimizer moments and averages lie as their parameters do.
    """
    shapes, axes = abstract_parameters(initializer(model), jax.random.key(0), batch)
    groups = assign_groups(config.optim.groups, list(shapes))
    trainable = {path: group for path, group in groups.items() if not group.frozen}
    optimizer = make_optimizer(config.optim, config.total_steps, trainable)
    shardings = parameter_shardings(shapes, axes, mesh, config.mesh.strategy)
    placed = {path: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=shardings[path]) for path, s in shapes.items()}
    params = {path: placed[path] for path in trainable}
    whole = NamedSharding(mesh, PartitionSpec())
    scalar = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)

    def place(path, leaf):
        keys = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        sharding = shardings.get(keys[-1], whole) if keys else whole
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    abstract = TrainState(
        step=scalar,
        params=params,
        frozen={path: leaf for path, leaf in placed.items() if path not in trainable},
        optimizer=jax.tree_util.tree_map_with_path(place, jax.eval_shape(optimizer.init, params)),
        ema=dict(params) if config.optim.ema_decay else {},
        skipped=scalar,
        nonfinite_in_row=scalar,
    )
    return Plan(shapes, axes, groups, optimizer, abstract)


def create_state(config: RunConfig, model: nn.Module, batch: Batch, plan: Plan) -> TrainState:
    """The first state of a run, made on its devices."""
    return state_maker(config, model, batch, plan)(jax.random.key(config.seed))


def state_maker(config: RunConfig, model: nn.Module, batch: Batch, plan: Plan) -> jax.stages.Wrapped:
    """The program key -> first state, of which every device makes its own shards."""
    trainable = set(plan.trainable)

    def make(key):
        params = flatten(nn.meta.unbox(initializer(model)(key, batch)["params"]))
        trained = {path: leaf for path, leaf in params.items() if path in trainable}
        zero = jnp.zeros((), jnp.int32)
        return TrainState(
            step=zero,
            params=trained,
            frozen={path: leaf for path, leaf in params.items() if path not in trainable},
            optimizer=plan.optimizer.init(trained),
            ema=dict(trained) if config.optim.ema_decay else {},
            skipped=zero,
            nonfinite_in_row=zero,
        )

    return jax.jit(make, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, plan.abstract))


def replace_params(state: TrainState, loaded: Mapping[str, Array]) -> TrainState:
    """The state with the parameters of `loaded` in place of its own (and of their averages)."""

    def taken(own):
        return {path: loaded.get(path, leaf) for path, leaf in own.items()}

    return state.replace(params=taken(state.params), frozen=taken(state.frozen), ema=taken(state.ema))
