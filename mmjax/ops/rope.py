"""Rotary position embeddings (Su et al. 2021), in the rotate-half layout of GPT-NeoX and Llama."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Float, Int
from mmjax.core.errors import ConfigError, InputError


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How frequencies are changed so that a model reads more positions than it was first trained on.

    kinds:
      none:   as they are.
      linear: positions are divided by `factor` (Chen et al. 2023).
      llama3: wavelengths that fit fewer than `low_freq_factor` times into `original_length` are divided by
        `factor`, those that fit more than `high_freq_factor` times stay, between them a blend (Llama 3.1).
      yarn:   the same with a blend linear in the channel, between the channels that turn `slow_turns` and
        `fast_turns` times within `original_length` (Peng et al. 2023). Its factor on the scores is
        `attention_factor`, and must be applied by the caller to both queries and keys.
    """

    kind: Literal["none", "linear", "llama3", "yarn"] = "none"
    factor: float = 1.0
    original_length: int = 8192
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    slow_turns: float = 1.0
    fast_turns: float = 32.0

    def __post_init__(self):
        if self.factor < 1 or self.original_length < 1:
            raise ConfigError("rope scaling needs factor >= 1 and original_length >= 1")
        if self.low_freq_factor >= self.high_freq_factor or self.slow_turns >= self.fast_turns:
            raise ConfigError("rope scaling needs low_freq_factor < high_freq_factor and slow_turns < fast_turns")

    @property
    def attention_factor(self) -> float:
        """What rotated queries and keys are to be multiplied by: 1 but for yarn."""
        return 0.1 * math.log(self.factor) + 1 if self.kind == "yarn" else 1.0


def rope_frequencies(
    head_width: int, base: float, scaling: RopeScaling | None = None, fraction: float = 1.0
) -> Float[np.ndarray, "half"]:
    """Radians per position of each pair of channels, float32, fastest first.

    Args:
      fraction: share of the head's channels that turn (GPT-NeoX: 0.25); the others stay.

    Raises:
      ConfigError: the turning channels are not an even number of at least 2.
    """
    turning = int(head_width * fraction)
    if turning < 2 or turning % 2:
        raise ConfigError(
            f"{fraction} of a head of {head_width} channels is {turning} rotary channels; it must be even and not 0"
        )
    frequencies = base ** -(np.arange(0, turning, 2, dtype=np.float64) / turning)
    if scaling is not None and scaling.kind != "none":
        slowed = frequencies / scaling.factor
        kept = _kept_share(frequencies, base, turning, scaling)
        frequencies = kept * frequencies + (1 - kept) * slowed
    return frequencies.astype(np.float32)


def _kept_share(frequencies: np.ndarray, base: float, turning: int, scaling: RopeScaling) -> np.ndarray:
    """How much of each frequency stays as it is: 1 untouched, 0 divided by the factor."""
    if scaling.kind == "linear":
        return np.zeros_like(frequencies)
    if scaling.kind == "llama3":
        turns = scaling.original_length * frequencies / (2 * np.pi)
        return np.clip((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor), 0, 1)

    def channel(turns: float) -> float:
        return turning * math.log(scaling.original_length / (turns * 2 * math.pi)) / (2 * math.log(base))

    first = max(math.floor(channel(scaling.fast_turns)), 0)
    last = min(math.ceil(channel(scaling.slow_turns)), turning - 1)
    return 1 - np.clip((np.arange(turning // 2) - first) / max(last - first, 1e-3), 0, 1)


def apply_rope(
    x: Float[Array, "B S H K"],
    positions: Int[Array, "B S"] | Int[Array, "B S axes"],
    frequencies: Float[Array, "half"],
    sections: Sequence[int] | None = None,
) -> Float[Array, "B S H K"]:
    """Turns channel pairs (i, i + rot/2) of the first `rot` channels by position times frequency.

    Angles and the turn itself are float32, so that far positions stay exact; the result has x's dtype.

    Args:
      positions: one number, or one for each of several axes (time, height and width, say).
      sections: how many of the pairs turn with the first axis, how many of those that follow with the second, and so on
        (Qwen2-VL's M-RoPE, Wang et al. 2024). Positions of one number are the same along every axis.

    Raises:
      InputError: positions of several axes without a section for each.
    """
    half = len(frequencies)
    if positions.ndim == 3:
        axes = () if sections is None else tuple(sections)
        if len(axes) != positions.shape[-1] or sum(axes) != half:
            raise InputError(
                f"positions of {positions.shape[-1]} axes need as many rotary sections, {half} channel pairs in all, "
                f"not {sections}"
            )
        turned_by = positions[:, :, np.repeat(np.arange(len(axes)), axes)]
    else:
        turned_by = positions[:, :, None]
    angles = turned_by.astype(jnp.float32) * jnp.asarray(frequencies, jnp.float32)[None, None]
    cosine, sine = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first = x[..., :half].astype(jnp.float32)
    second = x[..., half : 2 * half].astype(jnp.float32)
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1).astype(x.dtype)
    return turned if 2 * half == x.shape[-1] else jnp.concatenate([turned, x[..., 2 * half :]], axis=-1)
