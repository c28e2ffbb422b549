"""What a loss is made of, by data set, for the log."""

from __future__ import annotations

import flax.struct
import jax

from mmjax.core.arrays import Array, Float
from mmjax.core.batch import Batch


@flax.struct.dataclass
class Tally:
    """Sums by data set [dataset]: of weights, of weight x nll (in nats), of weight x each of the `scores` by name.

    What is weighed are predicted positions (language) or pairs (contrastive losses).
    """

    weight: Float[Array, datasets]
    nll: Float[Array, datasets]
    scores: dict[str, Float[Array, datasets]]


def by_dataset(batch: Batch, values: Float[Array, "B"], datasets: int) -> Float[Array, "datasets"]:
    """The sum of the rows' values of each data set."""
    return jax.ops.segment_sum(values, batch.dataset_ids, num_segments=datasets)
