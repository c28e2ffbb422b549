"""Corruptions of what is asked: pictures blurred, noisy, compressed or covered, taken away; questions mistyped.

Each is a pure function of its input, kind, strength and key. Draws do not depend on the strength: a stronger one does
more of the same, so that a score falls by the strength and not by luck. Demonstrations stay as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import cv2
import numpy as np

from mmjax.core.arrays import UInt8
from mmjax.core.config import nearest
from mmjax.core.errors import InputError
from mmjax.core.example import Frame, Media
from mmjax.data.keyed import Dice, fold, key_of, normals
from mmjax.evaluation.benchmark import Item

STRENGTHS = (1, 2, 3, 4, 5)

# Of Hendrycks and Dietterich (2019), as published for pictures of 224 pixels: standard deviations of the blur in
# pixels, of Gaussian noise on a scale of 1, and the quality of a JPEG.
_SIGMAS = (1.0, 2.0, 3.0, 4.0, 6.0)
_NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)
_QUALITIES = (25, 18, 15, 10, 7)
_SIDE = 224
# Own: the share of a picture that a grey rectangle of its own shape covers, and the probability that a letter of the
# question is mistyped.
_COVERED = (0.1, 0.2, 0.3, 0.45, 0.6)
_TYPOS = (0.02, 0.05, 0.1, 0.15, 0.25)
_GREY = 127

# How many strengths each kind has.
CORRUPTIONS: Mapping[str, int] = {"blur": 5, "noise": 5, "jpeg": 5, "occlusion": 5, "missing": 1, "typos": 5}

# Where the keys of the English keyboard lie: its rows are set off by a quarter and by half of a key.
_KEYS = {
    letter: (row, place + shift)
    for row, (letters, shift) in enumerate((("qwertyuiop", 0.0), ("asdfghjkl", 0.25), ("zxcvbnm", 0.75)))
    for place, letter in enumerate(letters)
}
_BESIDE = {
    letter: "".join(
        other
        for other, (y, x) in _KEYS.items()
        if other != letter and abs(y - row) <= 1 and abs(x - place) <= (1 if y == row else 0.75)
    )
    for letter, (row, place) in _KEYS.items()
}


def corrupted(item: Item, kind: str, strength: int, seed: int) -> Item:
    """The item with its pictures, or its question, corrupted; by the seed and the item's id.

    Pictures are corrupted when they are decoded. "missing" takes them away.

    Raises:
      InputError: there is no such kind or strength, or the item has nothing that it applies to.
    """
    check(kind, strength)
    if not applies_to(item, kind):
        raise InputError(f"item {item.id} has no {'question' if kind == 'typos' else 'picture'} for {kind}")
    key = key_of("corruption", kind, seed, item.id)
    if kind == "missing":
        return dataclasses.replace(item, media=())
    if kind == "typos":
        fields = {**item.fields, "question": mistyped(item.fields["question"], strength, key)}
        return dataclasses.replace(item, fields=fields)
    media = tuple(
        Media(
            tuple(
                CorruptedFrame(frame, kind, strength, fold(key, number, place))
                for place, frame in enumerate(medium.frames)
            )
        )
        for number, medium in enumerate(item.media)
    )
    return dataclasses.replace(item, media=media)


def applies_to(item: Item, kind: str) -> bool:
    """Whether the item has what a kind corrupts."""
    return bool(item.fields.get("question")) if kind == "typos" else bool(item.media)


def check(kind: str, strength: int) -> None:
    """Raises InputError where there is no such kind, or not with this strength."""
    if kind not in CORRUPTIONS:
        raise InputError(f"there is no corruption {kind!r}{nearest(kind, CORRUPTIONS)}")
    if not 1 <= strength <= CORRUPTIONS[kind]:
        raise InputError(f"the strength of {kind} is from 1 to {CORRUPTIONS[kind]}, not {strength}")


@dataclasses.dataclass(frozen=True)
class CorruptedFrame:
    """A frame that is corrupted when it is called, all its tiles alike."""

    frame: Frame
    kind: str
    strength: int
    key: int

    def __call__(self) -> UInt8[np.ndarray, "h w 3"] | UInt8[np.ndarray, "F h w 3"]:
        pixels = self.frame() if callable(self.frame) else self.frame
        if pixels.ndim == 4:
            return np.stack([corrupt_picture(tile, self.kind, self.strength, self.key) for tile in pixels])
        return corrupt_picture(pixels, self.kind, self.strength, self.key)


def corrupt_picture(
    pixels: UInt8[np.ndarray, "h w 3"], kind: str, strength: int, key: int
) -> UInt8[np.ndarray, "h w 3"]:
    """A picture that is blurred, noisy, compressed or covered.

    Strengths are those of pictures of 224 pixels: what is wider than that is blurred in proportion, and its noise has
    larger grains, so that a model that shrinks it sees as much of it. A JPEG is compressed at the size that it has.

    Raises:
      InputError: there is no such kind of pictures, or no such strength.
    """
    check(kind, strength)
    if kind not in OF_PICTURES:
        raise InputError(f"{kind} is no corruption of pixels: {', '.join(OF_PICTURES)}")
    return OF_PICTURES[kind](np.ascontiguousarray(pixels), strength - 1, key)


def _scale(pixels):
    return max(1.0, min(pixels.shape[:2]) / _SIDE)


def _blurred(pixels, level, key):
    return cv2.GaussianBlur(pixels, (0, 0), _SIGMAS[level] * _scale(pixels))


def _noisy(pixels, level, key):
    height, width = pixels.shape[:2]
    scale = _scale(pixels)
    rows, columns = max(1, round(height / scale)), max(1, round(width / scale))
    noise = normals(key, rows * columns * 3).reshape(rows, columns, 3)
    if scale > 1:
        noise = cv2.resize(noise, (width, height), interpolation=cv2.INTER_NEAREST)
    made = pixels.astype(np.float32) + np.float32(255 * _NOISE[level]) * noise
    return np.clip(np.rint(made), 0, 255).astype(np.uint8)


def _compressed(pixels, level, key):
    quality = [cv2.IMWRITE_JPEG_QUALITY, _QUALITIES[level]]
    _, file = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), quality)
    return cv2.cvtColor(cv2.imdecode(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def _covered(pixels, level, key):
    """The rectangles of all strengths lie within each other."""
    height, width = pixels.shape[:2]
    dice, side = Dice(key), _COVERED[level] ** 0.5
    high, wide = max(1, round(height * side)), max(1, round(width * side))
    top, left = round(dice.uniform() * (height - high)), round(dice.uniform() * (width - wide))
    made = pixels.copy()
    made[top : top + high, left : left + wide] = _GREY
    return made


OF_PICTURES = {"blur": _blurred, "noise": _noisy, "jpeg": _compressed, "occlusion": _covered}


def mistyped(text: str, strength: int, key: int) -> str:
    """A text in which letters are replaced by their neighbours on the keyboard, swapped with the next, or left out.

    Each letter of the alphabet with the probability of the strength, each way alike.
    """
    check("typos", strength)
    typed: list[str] = []
    letters = list(text)
    place = 0
    while place < len(letters):
        letter, dice = letters[place], Dice(fold(key, place))
        place += 1
        if letter.lower() not in _BESIDE or dice.uniform() >= _TYPOS[strength - 1]:
            typed.append(letter)
            continue
        way = dice.below(3)
        if way == 0:
            other = dice.choice(_BESIDE[letter.lower()])
            typed.append(other.upper() if letter.isupper() else other)
        elif way == 1 and place < len(letters):
            typed += [letters[place], letter]
            place += 1
    return "".join(typed)
