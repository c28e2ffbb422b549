"""Which transforms a data set's pictures go through, and in what order."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from mmjax.core.arrays import UInt8
from mmjax.core.errors import ConfigError
from mmjax.data.keyed import Dice, fold
from mmjax.data.transforms import colour, erase
from mmjax.data.transforms.randaugment import MAX_MAGNITUDE, rand_augment


@dataclasses.dataclass(frozen=True)
class Augment:
    """Transforms of pictures, all off by default, in the order in which they are done.

    crop: smallest and largest share of the picture's area that a random crop shows, which then fills the square
      (Szegedy et al. 2015); crop_aspect: its smallest and largest width over height. It takes the place of `fit`.
    flip: probability of being mirrored, left for right.
    brightness, contrast, saturation: each is multiplied by a factor from 1 - x to 1 + x. hue: turned by at most this
      share of the colour circle, from 0 to 0.5. The four come in random order (Krizhevsky et al. 2012; torchvision).
    rand_augment: how many operations of RandAugment are done (Cubuk et al. 2020); magnitude: how strongly, 0 to 10.
    blur: probability of a Gaussian blur; sigma: smallest and largest standard deviation, in pixels of the result.
    grey: probability of losing the colours.
    erase: probability that a rectangle becomes noise (random erasing, Zhong et al. 2020), of a share of the picture
      between the two of erase_area, and of a width over height between the two of erase_aspect.
    cutout: side of a square that becomes mid-grey, as a share of the short side (DeVries and Taylor 2017).
    masked_patches: share of the patches of `patch` x `patch` pixels that become mid-grey.
    """

    crop: tuple[float, float] | None = None
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    rand_augment: int = 0
    magnitude: float = 5.0
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    grey: float = 0.0
    erase: float = 0.0
    erase_area: tuple[float, float] = (0.02, 1 / 3)
    erase_aspect: tuple[float, float] = (0.3, 10 / 3)
    cutout: float = 0.0
    masked_patches: float = 0.0
    patch: int = 16

    def __post_init__(self):
        for name in ("flip", "blur", "grey", "erase", "cutout", "masked_patches", "brightness", "contrast"):
            _check_range(name, getattr(self, name), 1.0)
        _check_range("hue", self.hue, 0.5)
        _check_range("magnitude", self.magnitude, MAX_MAGNITUDE)
        if self.saturation < 0 or self.rand_augment < 0 or self.patch < 1:
            raise ConfigError(
                f"saturation ({self.saturation}) and rand_augment ({self.rand_augment}) must be 0 or more, and patch "
                f"({self.patch}) at least 1"
            )
        for name, most in (("crop", 1.0), ("erase_area", 1.0), *((n, np.inf) for n in _UNBOUNDED)):
            pair = getattr(self, name)
            if pair is not None and not 0.0 < pair[0] <= pair[1] <= most:
                raise ConfigError(f"{name} must be two rising numbers above 0, up to {most:g}, not {list(pair)}")

    @functools.cached_property
    def is_off(self) -> bool:
        """Whether pictures stay as they are."""
        return self.crop is None and not any(getattr(self, name) for name in _SWITCHES)


def transformed(picture: UInt8[np.ndarray, "h w 3"], augment: Augment, key: int) -> UInt8[np.ndarray, "h w 3"]:
    """A picture after all transforms but the crop. Each has draws of its own: taking one away changes no other."""
    dice = {name: Dice(fold(key, number)) for number, name in enumerate(_SWITCHES) if getattr(augment, name)}
    if "flip" in dice and dice["flip"].uniform() < augment.flip:
        picture = np.ascontiguousarray(picture[:, ::-1])
    picture = colour.jitter(picture, augment, Dice(fold(key, _JITTER)))
    if "rand_augment" in dice:
        picture = rand_augment(picture, dice["rand_augment"], layers=augment.rand_augment, magnitude=augment.magnitude)
    if "blur" in dice and dice["blur"].uniform() < augment.blur:
        picture = colour.blurred(picture, between(dice["blur"], *augment.sigma))
    if "grey" in dice and dice["grey"].uniform() < augment.grey:
        picture = colour.greyed(picture)
    if "erase" in dice and dice["erase"].uniform() < augment.erase:
        picture = erase.erased(picture, dice["erase"], area=augment.erase_area, aspect=augment.erase_aspect)
    if "cutout" in dice:
        picture = erase.cut_out(picture, dice["cutout"], share=augment.cutout)
    if "masked_patches" in dice:
        picture = erase.patches_masked(
            picture, dice["masked_patches"], share=augment.masked_patches, patch=augment.patch
        )
    return picture


def between(dice: Dice, low: float, high: float) -> float:
    """A number from `low` up to `high`."""
    return low + (high - low) * dice.uniform()


# In this order for good: the place of a name decides its draws.
_SWITCHES = (
    "flip",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "rand_augment",
    "blur",
    "grey",
    "erase",
    "cutout",
    "masked_patches",
)
_JITTER = 100
_UNBOUNDED = ("crop_aspect", "sigma", "erase_aspect")


def _check_range(name, value, most):
    if not 0.0 <= value <= most:
        raise ConfigError(f"{name} must be between 0 and {most:g}, not {value}")
