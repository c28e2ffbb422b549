"""Prompts: segments of text and pictures that a model is to continue."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence

import numpy as np

from mmjax.core.arrays import UInt8
from mmjax.core.errors import DataError, InputError
from mmjax.core.example import Media, Segment, Text
from mmjax.data.images import load_image

IMAGE_MARK = "<image>"

Picture = Media | UInt8[np.ndarray, "h w 3"]


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What stands before the text to be written. Text looks at the last picture before it."""

    segments: tuple[Segment, ...]

    @classmethod
    def from_text(cls, text: str, pictures: Sequence[Picture] = ()) -> Prompt:
        """A prompt in which the pictures stand, in order, where `text` has `<image>`; one may stand before it unmarked.

        Raises:
          InputError: the numbers of marks and of pictures differ.
        """
        pieces = text.split(IMAGE_MARK)
        if len(pieces) == 1 and len(pictures) == 1:
            pieces = ["", text]
        marks = len(pieces) - 1
        if marks != len(pictures):
            given, wanted = _number(len(pictures), "picture"), _number(marks, f"{IMAGE_MARK} mark")
            if marks > len(pictures):
                raise InputError(f"the prompt has {wanted} but {given}; give a picture for each {IMAGE_MARK}, in order")
            raise InputError(
                f"{given} but {wanted} in the prompt; write {IMAGE_MARK} where each picture belongs, or give fewer"
            )
        segments: list[Segment] = [Text(pieces[0])] if pieces[0] else []
        for picture, piece in zip(pictures, pieces[1:], strict=True):
            segments.append(as_media(picture))
            if piece:
                segments.append(Text(piece))
        return cls(tuple(segments))

    def after(self, shots: Iterable[tuple[Picture, str]]) -> Prompt:
        """This prompt after demonstrations, each a picture and the text that belongs to it."""
        shown = [segment for picture, text in shots for segment in (as_media(picture), Text(text, end_of_chunk=True))]
        return Prompt((*shown, *self.segments))

    @property
    def media(self) -> tuple[Media, ...]:
        """The pictures, in order."""
        return tuple(segment for segment in self.segments if isinstance(segment, Media))

    def __str__(self) -> str:
        """The prompt for people to read: `<image>` stands for each picture."""
        return as_text(self.segments)


def as_text(segments: Iterable[Segment]) -> str:
    """Segments for people to read: `<image>` stands for each picture."""
    return "".join(segment.text if isinstance(segment, Text) else IMAGE_MARK for segment in segments)


def as_media(picture: Picture) -> Media:
    """A picture as a medium of one frame."""
    return picture if isinstance(picture, Media) else Media((np.asarray(picture),))


def open_picture(source: str | os.PathLike | bytes, *, size: int) -> Media:
    """The picture of a file, at the size that the model reads.

    Raises:
      InputError: there is no such file, or it is no picture, broken or too large.
    """
    try:
        return as_media(load_image(source, size=size))
    except DataError as error:
        raise InputError(str(error)) from None


def load_frames(media: Media) -> UInt8[np.ndarray, "F h w 3"]:
    """The frames of a medium as one array.

    Raises:
      InputError: it has none, they are no pictures, or they differ in size.
    """
    frames = media.load()
    shapes = {(frame.dtype.name, *frame.shape) for frame in frames}
    if len(shapes) != 1 or len(frames[0].shape) != 3 or frames[0].shape[2] != 3 or frames[0].dtype != np.uint8:
        raise InputError(f"a picture of a prompt must be uint8 [h, w, 3], all frames alike, not {sorted(shapes)}")
    return frames[0][None] if len(frames) == 1 else np.stack(frames)


def _number(count: int, what: str) -> str:
    return f"{count or 'no'} {what}" + ("" if count == 1 else "s")
