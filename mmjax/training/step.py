"""One training step: gradient of the trainable parameters, accumulated over parts of the batch, applied if finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from mmjax.core.arrays import Array, Float
from mmjax.core.batch import Batch
from mmjax.models.families import forward
from mmjax.objectives.kinds import OBJECTIVES
from mmjax.objectives.tally import Tally
from mmjax.parallel.sharding import nested, use_mesh
from mmjax.training.run import RunConfig
from mmjax.training.state import Plan, TrainState


@flax.struct.dataclass
class StepMetrics:
    """What a step tells, all still on the device."""

    loss: Float[Array, ""]
    tally: Tally
    gradient_norm: Float[Array, ""]
    update_norm: Float[Array, ""]
    parameter_norm: Float[Array, ""]
    finite: Array
    nonfinite_in_row: Array
    skipped: Array


LossFunction = Callable[[dict, dict, Batch], tuple[Array, Tally]]


def make_train_step(
    config: RunConfig, model: nn.Module, plan: Plan, mesh: Mesh, dataset_weights: Sequence[float]
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """The step, to be jitted with its state donated."""
    objective = OBJECTIVES[type(config.objective)]

    def loss_function(trained, frozen, batch, weights):
        output = forward(model, nested({**frozen, **trained}), batch)
        return objective.loss(output, batch, weights, config.objective, datasets=len(dataset_weights))

    gradient = jax.value_and_grad(loss_function, has_aux=True)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        with use_mesh(mesh, config.mesh.strategy):
            weights = objective.weights(batch, dataset_weights)

            def one(part, w):
                told, gradients = gradient(state.params, state.frozen, part, w)
                return told, _placed(gradients, plan.abstract.params)

            (loss, tally), gradients = _accumulate(one, batch, weights, config.accumulate_steps)
            new, metrics = _apply(config, plan, state, loss, tally, gradients)
            return _placed(new, plan.abstract), metrics

    return step


def make_loss(
    config: RunConfig, model: nn.Module, mesh: Mesh, dataset_weights: Sequence[float], *, blank: bool
) -> Callable[[TrainState, Batch], tuple[Array, Tally]]:
    """The loss alone, on the same parts as the step; `blank` replaces every picture by the mean colour."""
    objective = OBJECTIVES[type(config.objective)]

    def loss(state: TrainState, batch: Batch) -> tuple[Array, Tally]:
        with use_mesh(mesh, config.mesh.strategy):
            weights = objective.weights(batch, dataset_weights)
            if blank:
                colour = np.round(255 * np.asarray(model.config.image_mean)).astype(np.uint8)
                batch = batch.replace(images=jnp.broadcast_to(jnp.asarray(colour), batch.images.shape))

            def one(part, w):
                output = forward(model, nested(state.all_params()), part)
                return objective.loss(output, part, w, config.objective, datasets=len(dataset_weights)), ()

            return _accumulate(one, batch, weights, config.accumulate_steps)[0]

    return loss


def _placed(tree, like):
    """Every array where the one in its place in `like` lies, so that no step moves the state."""
    return jax.tree.map(lambda x, place: jax.lax.with_sharding_constraint(x, place.sharding), tree, like)


def _accumulate(function, batch, weights, parts):
    """Sums `function(part, weights)` over `parts` of the rows, of which only one is worked on at a time.

    Part i takes rows i, i + parts, ...: every device keeps its own rows.
    """
    if parts == 1:
        return function(batch, weights)

    def split(x):
        return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)

    cut = jax.tree.map(split, (batch, weights))

    def add(total, part):
        return jax.tree.map(jnp.add, total, function(*part)), None

    first = jax.eval_shape(function, *jax.tree.map(lambda x: x[0], cut))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)
    return jax.lax.scan(add, zeros, cut)[0]


def _apply(config, plan, state, loss, tally, gradients):
    """The next state; the one before, with the counters moved, where the loss or the gradient is not finite."""
    norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    updates, optimizer = plan.optimizer.update(gradients, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema:
        decay = config.optim.ema_decay
        ema = {path: decay * average + (1.0 - decay) * params[path] for path, average in ema.items()}

    def keep(new, old):
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)

    bad = jnp.where(finite, 0, 1).astype(jnp.int32)
    new = state.replace(
        step=state.step + 1,
        params=keep(params, state.params),
        optimizer=keep(optimizer, state.optimizer),
        ema=keep(ema, state.ema),
        skipped=state.skipped + bad,
        nonfinite_in_row=(state.nonfinite_in_row + 1) * bad,
    )
    metrics = StepMetrics(
        loss=loss,
        tally=tally,
        gradient_norm=norm,
        update_norm=optax.tree.norm(updates),
        parameter_norm=optax.tree.norm(params),
        finite=finite,
        nonfinite_in_row=new.nonfinite_in_row,
        skipped=new.skipped,
    )
    return new, metrics
