"""The objectives that a configuration can name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from mmjax.models.families import Output
from mmjax.objectives.contrastive import (
    SigmoidContrastiveConfig,
    SoftmaxContrastiveConfig,
    pair_weights,
    sigmoid_contrastive_loss,
    softmax_contrastive_loss,
)
from mmjax.objectives.language import LanguageConfig, language_loss, position_weights

ObjectiveConfig = LanguageConfig | SoftmaxContrastiveConfig | SigmoidContrastiveConfig


@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss of a batch.

    reads: the output of a family that it is a loss of.
    weights: (batch, weights of the data sets) -> those of the batch's positions or rows, taken over the whole batch.
    loss: (output, batch, weights, config, datasets=...) -> (summed weighted loss, tally).
    over_parts: the losses of parts of a batch sum to that of the whole, so that gradients can be accumulated.
    grounded: the loss without pictures says something: how much the model makes of them.
    """

    reads: Output
    weights: Callable[..., Any]
    loss: Callable[..., Any]
    over_parts: bool
    grounded: bool


# By the class of their configs.
OBJECTIVES: dict[type, Objective] = {
    LanguageConfig: Objective("text", position_weights, language_loss, over_parts=True, grounded=True),
    SoftmaxContrastiveConfig: Objective(
        "pairs", pair_weights, softmax_contrastive_loss, over_parts=False, grounded=False
    ),
    SigmoidContrastiveConfig: Objective(
        "pairs", pair_weights, sigmoid_contrastive_loss, over_parts=False, grounded=False
    ),
}
