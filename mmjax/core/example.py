"""What every data set is read into: an example is a list of segments, each a piece of text or a medium.

Captions, questions with answers, chat turns, interleaved pages and videos are all this one type. A source
makes examples; the prompt (`mmjax.text.prompt`) turns their segments into tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from mmjax.core.arrays import UInt8

Frame = UInt8[np.ndarray, "h w 3"] | Callable[[], UInt8[np.ndarray, "h w 3"]]


@dataclasses.dataclass(frozen=True)
class Text:
    """A piece of text. `loss`: the model learns to write it. `end_of_chunk`: the chunk of its picture ends here.

    The end-of-chunk token is learned where the text is.
    """

    text: str
    loss: bool = False
    end_of_chunk: bool = False


@dataclasses.dataclass(frozen=True)
class Media:
    """A picture (one frame) or a video (several). A frame may be a function that makes it when it is needed.

    So the text of an example can be measured without decoding its pictures.
    """

    frames: tuple[Frame, ...]

    def load(self) -> tuple[UInt8[np.ndarray, "h w 3"], ...]:
        """The frames as uint8 arrays. Raises DataError when one cannot be decoded."""
        return tuple(frame() if callable(frame) else frame for frame in self.frames)


Segment = Text | Media


@dataclasses.dataclass(frozen=True)
class Example:
    """An example of a data set. `id` names it for good: `SOURCE:EPOCH:INDEX`."""

    id: str
    segments: tuple[Segment, ...]
