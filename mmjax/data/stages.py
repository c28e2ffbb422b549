"""Stages of a curriculum: pictures with less detail, or with noise, in the size that the rows have anyway."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from mmjax.core.arrays import UInt8
from mmjax.data.assemble import ReadExample
from mmjax.data.keyed import key_of, normals
from mmjax.data.mixture import Phase


def shown(example: ReadExample, phase: Phase, seed: int) -> ReadExample:
    """The example as it is shown in a phase. Noise depends on the seed and the example's id alone."""
    if phase.detail == 1.0 and not phase.noise:
        return example
    media = tuple(
        tuple(
            with_noise(with_detail(frame, phase.detail), phase.noise, key_of(seed, example.id, "noise", medium, place))
            for place, frame in enumerate(frames)
        )
        for medium, frames in enumerate(example.media)
    )
    return dataclasses.replace(example, media=media)


def with_detail(frame: UInt8[np.ndarray, "h w 3"], share: float) -> UInt8[np.ndarray, "h w 3"]:
    """The picture as it looks at a share of its resolution: made smaller (area mean), and bicubically large again."""
    height, width, _ = frame.shape
    small = max(1, round(width * share)), max(1, round(height * share))
    if small == (width, height):
        return frame
    reduced = Image.fromarray(frame).resize(small, Image.Resampling.BOX)
    return np.asarray(reduced.resize((width, height), Image.Resampling.BICUBIC))


def with_noise(frame: UInt8[np.ndarray, "h w 3"], deviation: float, key: int) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with Gaussian noise of this standard deviation, as a share of 255; what leaves 0..255 is clipped."""
    if not deviation:
        return frame
    noise = normals(key, frame.size).reshape(frame.shape) * np.float32(255 * deviation)
    return np.clip(np.rint(frame.astype(np.float32) + noise), 0, 255).astype(np.uint8)
