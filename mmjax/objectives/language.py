"""Next-token prediction on weighted positions, its mean taken within each data set (Flamingo's accumulation)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp

from mmjax.core.arrays import Array, Float
from mmjax.core.batch import Batch
from mmjax.core.errors import ConfigError
from mmjax.models.decoders.decoder import DecoderOutput
from mmjax.ops.losses import linear_cross_entropy


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """chunk_size: tokens whose logits exist at the same time. z_loss: weight of log(Z)^2, which keeps logits small."""

    chunk_size: int = 1024
    z_loss: float = 0.0

    def __post_init__(self):
        if self.chunk_size < 1:
            raise ConfigError(f"chunk_size must be positive, not {self.chunk_size}")
        if self.z_loss < 0.0:
            raise ConfigError(f"z_loss must be at least 0, not {self.z_loss}")


@flax.struct.dataclass
class Tally:
    """Sums over predicted positions, by data set [dataset]: of their weights, of weight x nll, of weight x correct."""

    weight: Float[Array, datasets]
    nll: Float[Array, datasets]
    correct: Float[Array, datasets]


def position_weights(batch: Batch, dataset_weights: Sequence[float]) -> Float[Array, "B T"]:
    """Weights under which the summed loss is `sum_d w_d mean_d`: the weighted sum of each data set's mean loss.

    They are those of the whole batch, so that parts of it may be summed one after the other.
    """
    sums = _by_dataset(batch, batch.loss_weights, len(dataset_weights))
    factors = jnp.asarray(dataset_weights, jnp.float32) / jnp.maximum(sums, 1e-9)
    return batch.loss_weights * jnp.take(factors, batch.dataset_ids)[:, None]


def language_loss(
    output: DecoderOutput,
    batch: Batch,
    weights: Float[Array, "B T"],
    config: LanguageConfig,
    *,
    datasets: int,
) -> tuple[Float[Array, ""], Tally]:
    """The summed weighted loss of a batch (or of a part of one), and what it is made of by data set."""
    hidden = output.hidden.reshape(-1, output.hidden.shape[-1])
    result = linear_cross_entropy(
        hidden,
        output.unembedding,
        batch.targets.reshape(-1),
        weights.reshape(-1),
        chunk_size=config.chunk_size,
        softcap=output.logits_softcap,
        z_loss=config.z_loss,
    )
    shape = batch.tokens.shape
    tally = Tally(
        weight=_by_dataset(batch, batch.loss_weights, datasets),
        nll=_by_dataset(batch, batch.loss_weights * result.nll.reshape(shape), datasets),
        correct=_by_dataset(batch, batch.loss_weights * result.correct.reshape(shape).astype(jnp.float32), datasets),
    )
    return result.loss, tally


def _by_dataset(batch: Batch, values: Float[Array, "B T"], datasets: int) -> Float[Array, datasets]:
    return jax.ops.segment_sum(jnp.sum(values, axis=1), batch.dataset_ids, num_segments=datasets)
