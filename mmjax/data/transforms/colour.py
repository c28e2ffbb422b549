"""Colours: brightness, contrast, saturation, hue, grey, blur."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np

from mmjax.core.arrays import UInt8
from mmjax.data.keyed import Dice


class Jitter(Protocol):
    """How far each may go; see `mmjax.data.transforms.augment.Augment`."""

    brightness: float
    contrast: float
    saturation: float
    hue: float


def jitter(picture: UInt8[np.ndarray, "h w 3"], most: Jitter, dice: Dice) -> UInt8[np.ndarray, "h w 3"]:
    """Brightness, contrast, saturation and hue changed at random, in random order."""
    ways = [("brightness", brightened), ("contrast", contrasted), ("saturation", saturated), ("hue", hue_turned)]
    dice.shuffle(ways)
    for name, way in ways:
        far = getattr(most, name) * (2 * dice.uniform() - 1)
        if far:
            picture = way(picture, far if name == "hue" else max(0.0, 1 + far))
    return picture


def brightened(picture: UInt8[np.ndarray, "h w 3"], factor: float) -> UInt8[np.ndarray, "h w 3"]:
    """Levels times `factor`."""
    return cv2.LUT(picture, _levels(_LEVELS * factor))


def contrasted(picture: UInt8[np.ndarray, "h w 3"], factor: float) -> UInt8[np.ndarray, "h w 3"]:
    """Distances from the picture's mean grey times `factor`."""
    mean = cv2.mean(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))[0]
    return cv2.LUT(picture, _levels(mean + (_LEVELS - mean) * factor))


def saturated(picture: UInt8[np.ndarray, "h w 3"], factor: float) -> UInt8[np.ndarray, "h w 3"]:
    """Distances from each pixel's own grey times `factor`."""
    return cv2.addWeighted(picture, factor, greyed(picture), 1 - factor, 0)


def hue_turned(picture: UInt8[np.ndarray, "h w 3"], turn: float) -> UInt8[np.ndarray, "h w 3"]:
    """Hues moved by `turn` of the colour circle."""
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(turn * 256) % 256)  # wraps around, as hues do
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def greyed(picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Each pixel's luma (ITU-R BT.601) in all three channels."""
    return cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def blurred(picture: UInt8[np.ndarray, "h w 3"], sigma: float) -> UInt8[np.ndarray, "h w 3"]:
    """A Gaussian blur of standard deviation `sigma` pixels."""
    return cv2.GaussianBlur(picture, (0, 0), sigma)


_LEVELS = np.arange(256, dtype=np.float64)


def _levels(values):
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
