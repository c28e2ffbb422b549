"""Pictures of a batch mixed with each other, and their labels with them, for classifiers."""

from __future__ import annotations

import numpy as np
from scipy.special import betaincinv

from mmjax.core.arrays import Float, Int, UInt8
from mmjax.core.errors import InputError
from mmjax.data.keyed import Dice


def soft_labels(labels: Int[np.ndarray, " B"], classes: int, smoothing: float = 0.0) -> Float[np.ndarray, "B V"]:
    """Labels as distributions over the classes; `smoothing` is shared evenly by all of them (Szegedy et al. 2016)."""
    return np.float32(1 - smoothing) * np.eye(classes, dtype=np.float32)[labels] + np.float32(smoothing / classes)


def mixup(
    images: UInt8[np.ndarray, "B h w 3"], labels: Float[np.ndarray, "B V"], dice: Dice, *, alpha: float = 0.2
) -> tuple[UInt8[np.ndarray, "B h w 3"], Float[np.ndarray, "B V"]]:
    """Each picture and its label mixed with another's: share x of its own, x from Beta(alpha, alpha) for the batch.

    Zhang et al. (2018).
    """
    own, partner = _share(dice, alpha), _partners(dice, len(images))
    mixed = np.float32(own) * images + np.float32(1 - own) * images[partner]
    return np.rint(mixed).astype(np.uint8), _mixed_labels(labels, partner, own)


def cutmix(
    images: UInt8[np.ndarray, "B h w 3"], labels: Float[np.ndarray, "B V"], dice: Dice, *, alpha: float = 1.0
) -> tuple[UInt8[np.ndarray, "B h w 3"], Float[np.ndarray, "B V"]]:
    """A rectangle of each picture comes from another, and so much of the label as it covers (Yun et al. 2019).

    The rectangle has the picture's aspect and covers 1 - x of it, x from Beta(alpha, alpha), where its middle, which is
    anywhere, leaves it inside; it is the same for the whole batch.
    """
    height, width = images.shape[1:3]
    own, partner = _share(dice, alpha), _partners(dice, len(images))
    high, wide = round(height * (1 - own) ** 0.5), round(width * (1 - own) ** 0.5)
    top, left = dice.below(height) - high // 2, dice.below(width) - wide // 2
    rows, columns = slice(max(0, top), max(0, top + high)), slice(max(0, left), max(0, left + wide))
    mixed = images.copy()
    mixed[:, rows, columns] = images[partner][:, rows, columns]
    covered = mixed[0, rows, columns, 0].size / (height * width)
    return mixed, _mixed_labels(labels, partner, 1 - covered)


def _share(dice, alpha):
    """A draw from Beta(alpha, alpha), by the inverse of its distribution."""
    if alpha <= 0:
        raise InputError(f"alpha must be above 0, not {alpha}")
    return float(betaincinv(alpha, alpha, dice.uniform()))


def _partners(dice, count):
    order = list(range(count))
    dice.shuffle(order)
    return np.array(order)


def _mixed_labels(labels, partner, own):
    return np.float32(own) * labels + np.float32(1 - own) * labels[partner]
