"""What every data set is read into: an example is a list of segments, each a piece of text or a medium.

Captions, questions with answers, chat turns, interleaved pages and videos are all this one type. A source
makes examples; the prompt (`mmjax.text.prompt`) turns their segments into tokens.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable

import numpy as np

from mmjax.core.arrays import UInt8

Frame = UInt8[np.ndarray, "h w 3"] | Callable[[], UInt8[np.ndarray, "h w 3"] | UInt8[np.ndarray, "F h w 3"]]


class KeyedFrame(abc.ABC):
    """A frame that is made when it is called. Transforms draw by its key; without one there are none, as for a test."""

    @abc.abstractmethod
    def with_key(self, key: int) -> KeyedFrame: ...

    @abc.abstractmethod
    def __call__(self) -> UInt8[np.ndarray, "h w 3"] | UInt8[np.ndarray, "F h w 3"]: ...


class FileFrame(KeyedFrame):
    """One that comes from a file. `out`: a contiguous array where it may come to lie; its result says where it does."""

    @abc.abstractmethod
    def __call__(
        self, out: UInt8[np.ndarray, "h w 3"] | None = None
    ) -> UInt8[np.ndarray, "h w 3"] | UInt8[np.ndarray, "F h w 3"]: ...


@dataclasses.dataclass(frozen=True)
class Text:
    """A piece of text. `loss`: the model learns to write it. `end_of_chunk`: the chunk of its picture ends here.

    The end-of-chunk token is learned where the text is. control: the text spells one token of the vocabulary, which
    marks the turns of a conversation ("<|im_start|>"); any other text that spells it is ordinary text.
    """

    text: str
    loss: bool = False
    end_of_chunk: bool = False
    control: bool = False


@dataclasses.dataclass(frozen=True)
class Media:
    """A picture (one frame) or a video (several). A frame may be a function that makes it when it is needed.

    So the text of an example can be measured without decoding its pictures. The function may give several frames at
    once: the tiles of a picture.
    """

    frames: tuple[Frame, ...]

    def load(self, room: UInt8[np.ndarray, "F h w 3"] | None = None) -> tuple[UInt8[np.ndarray, "h w 3"], ...]:
        """The frames as uint8 arrays. Raises DataError when one cannot be decoded.

        room: where they may come to lie, in order. What is there after an error is undefined.
        """
        made: list[UInt8[np.ndarray, "h w 3"]] = []
        for frame in self.frames:
            if isinstance(frame, FileFrame) and room is not None and len(made) < len(room):
                frame = frame(room[len(made)])
            elif callable(frame):
                frame = frame()
            made.extend(frame if frame.ndim == 4 else (frame,))
        return tuple(made)

    def keyed(self, key: int) -> Media:
        """The same with frames that draw by `key`: all by the same, so that a video moves as one."""
        return Media(tuple(frame.with_key(key) if isinstance(frame, KeyedFrame) else frame for frame in self.frames))


Segment = Text | Media


@dataclasses.dataclass(frozen=True)
class Example:
    """An example of a data set. `id` names it for good: `SOURCE:EPOCH:INDEX`."""

    id: str
    segments: tuple[Segment, ...]
