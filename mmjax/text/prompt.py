"""Segments -> tokens. A prompt is built from its parts; no placeholder is ever searched for in a string."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from mmjax.core.arrays import Bool, Int
from mmjax.core.errors import ConfigError
from mmjax.core.example import Media, Segment, Text
from mmjax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Layout:
    """How an example is written, as its model expects it.

    image_tokens: how often the image token stands for a picture: once where the text looks at pictures from outside
      (Flamingo), as often as a picture has vectors where these stand in the text (LLaVA), not at all where pictures and
      texts are read apart (CLIP).
    bos: where the first token stands: "first", "after_images" (those that the example begins with: PaliGemma), or
      "none" (SigLIP).
    """

    image_tokens: int = 1
    bos: Literal["first", "after_images", "none"] = "first"

    def __post_init__(self):
        if self.image_tokens < 0:
            raise ConfigError(f"image_tokens must be 0 or more, not {self.image_tokens}")

    def tokens_besides(self, images: int) -> int:
        """Tokens of an example of `images` pictures, without those of its texts."""
        return (self.bos != "none") + images * self.image_tokens + 1


class Tokenized(NamedTuple):
    """Tokens of one example; `loss` marks those that are learned, `media_number` the medium each one looks at.

    Media are numbered from 1 in order; 0 is none. `images` is how many there are.
    """

    tokens: Int[np.ndarray, " T"]
    loss: Bool[np.ndarray, " T"]
    media_number: Int[np.ndarray, " T"]
    images: int


def tokenize(
    segments: Iterable[Segment],
    tokenizer: Tokenizer,
    *,
    bos: bool = True,
    eos: bool = True,
    next_image: bool = False,
    layout: Layout = Layout(),  # noqa: B008 (frozen)
    max_tokens: int = 0,
) -> Tokenized:
    """Tokens of a list of segments: a medium is as many image tokens as `layout` says, each text is encoded by itself.

    Each token looks at the last medium whose token is at or before it; with `next_image` at the first one at or
    after it (Flamingo, Alayrac et al. 2022, section 3.1, does either with probability 0.5 in training):

        tokens         <s>  a  <image>  b  c  <image>  d  </s>
        media_number    0   0     1     1  1     2     2   2
        next_image      1   1     1     2  2     2     0   0

    `bos` and `eos` frame the example; the end token is learned where the last text is, and is not repeated where that
    is the end token itself, as a control word. An example of more than
    `max_tokens` (0: no limit) is cut, its end token is not learned then; of a picture's tokens it has all or none.
    """
    special = tokenizer.special
    segments = tuple(segments)
    ended = eos and ends_itself(segments, tokenizer)
    tokens: list[int] = []
    # How many tokens come one after another that are alike, whether they are learned, and the pictures before them.
    counts: list[int] = []
    losses: list[bool] = []
    numbers: list[int] = []
    images = 0
    learned = False
    begun = not bos or layout.bos == "none"

    def put(ids, learned):
        tokens.extend(ids)
        counts.append(len(ids))
        losses.append(learned)
        numbers.append(images)

    for segment in segments[:-1] if ended else segments:
        if not begun and (layout.bos == "first" or not isinstance(segment, Media)):
            put([special["bos"]], False)
            begun = True
        if isinstance(segment, Media):
            images += 1
            ids, learned = [special["image"]] * layout.image_tokens, False
        elif isinstance(segment, Text):
            ids, learned = _text_ids(segment, tokenizer), segment.loss
        else:
            raise TypeError(f"a segment is Text or Media, not {type(segment).__name__}")
        room = max_tokens - eos - len(tokens) - (not begun) if max_tokens else len(ids)
        if len(ids) > room:
            images, ids = (images - 1, []) if isinstance(segment, Media) else (images, ids[:room])
            put(ids, learned)
            learned = False
            break
        put(ids, learned)
    else:
        learned = segments[-1].loss if ended else learned
    if not begun:
        put([special["bos"]], False)
    if eos:
        put([special["eos"]], learned)
    ids = np.fromiter(tokens, np.int32, len(tokens))
    loss, media = np.array(losses, bool).repeat(counts), np.array(numbers, np.int32).repeat(counts)
    if next_image:
        media = _next_media(media, ids == special["image"], images)
    return Tokenized(ids, loss, media, images)


def ends_itself(segments: Sequence[Segment], tokenizer: Tokenizer) -> bool:
    """Whether the last segment is the end token, written as a control word."""
    last = segments[-1] if segments else None
    return isinstance(last, Text) and last.control and tokenizer.control(last.text) == tokenizer.special["eos"]


def _text_ids(text: Text, tokenizer: Tokenizer) -> list[int]:
    ids = [tokenizer.control(text.text)] if text.control else tokenizer.encode(text.text)
    return [*ids, tokenizer.special["end_of_chunk"]] if text.end_of_chunk else ids


def _next_media(numbers, is_image, images):
    following = np.where(is_image, numbers, numbers + 1)
    return np.where(following > images, 0, following).astype(np.int32)
