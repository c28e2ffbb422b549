"""Next-token prediction on weighted positions, its mean taken within each data set (Flamingo's accumulation)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp

from mmjax.core.arrays import Array, Float
from mmjax.core.batch import Batch
from mmjax.core.errors import ConfigError
from mmjax.models.decoders.decoder import DecoderOutput
from mmjax.objectives.tally import Tally, by_dataset
from mmjax.objectives.vocabulary import loss_shards
from mmjax.ops.losses import linear_cross_entropy


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """chunk_size: tokens of a device whose logits exist at the same time.

    z_loss: weight of log(Z)^2, which keeps logits small.
    """

    kind: Literal["language"] = dataclasses.field(default="language", kw_only=True)
    chunk_size: int = 1024
    z_loss: float = 0.0

    def __post_init__(self):
        if self.chunk_size < 1:
            raise ConfigError(f"chunk_size must be positive, not {self.chunk_size}")
        if self.z_loss < 0.0:
            raise ConfigError(f"z_loss must be at least 0, not {self.z_loss}")


def position_weights(batch: Batch, dataset_weights: Sequence[float]) -> Float[Array, "B T"]:
    """Weights under which the summed loss is `sum_d w_d mean_d`: the weighted sum of each data set's mean loss.

    They are those of the whole batch, so that parts of it may be summed one after the other.
    """
    sums = by_dataset(batch, jnp.sum(batch.loss_weights, axis=1), len(dataset_weights))
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
    result = linear_cross_entropy(
        output.hidden,
        output.unembedding,
        batch.targets,
        weights,
        chunk_size=config.chunk_size,
        softcap=output.logits_softcap,
        z_loss=config.z_loss,
        shards=loss_shards(output.hidden.shape, output.unembedding.shape, config.chunk_size),
    )

    def weighed(values):
        rows = jnp.sum(batch.loss_weights * values, axis=1)
        return by_dataset(batch, rows, datasets)

    return result.loss, Tally(
        weight=by_dataset(batch, jnp.sum(batch.loss_weights, axis=1), datasets),
        nll=weighed(result.nll),
        scores={"accuracy": weighed(result.correct.astype(jnp.float32))},
    )
