"""Segments -> tokens. A prompt is built from its parts; no placeholder is ever searched for in a string."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from mmjax.core.arrays import Bool, Int
from mmjax.core.example import Media, Segment, Text
from mmjax.text.tokenizer import Tokenizer


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
) -> Tokenized:
    """Tokens of a list of segments: each medium is one image token, each text is encoded by itself.

    Each token looks at the last medium whose token is at or before it; with `next_image` at the first one at or
    after it (Flamingo, Alayrac et al. 2022, section 3.1, does either with probability 0.5 in training):

        tokens         <s>  a  <image>  b  c  <image>  d  </s>
        media_number    0   0     1     1  1     2     2   2
        next_image      1   1     1     2  2     2     0   0

    `bos` and `eos` frame the example; the end token is learned where the last text is.
    """
    special = tokenizer.special
    tokens, loss, media = ([special["bos"]], [False], [0]) if bos else ([], [], [])
    images = 0
    learned = False
    for segment in segments:
        if isinstance(segment, Media):
            images += 1
            ids, learned = [special["image"]], False
        elif isinstance(segment, Text):
            ids, learned = tokenizer.encode(segment.text), segment.loss
            if segment.end_of_chunk:
                ids.append(special["end_of_chunk"])
        else:
            raise TypeError(f"a segment is Text or Media, not {type(segment).__name__}")
        tokens += ids
        loss += [learned] * len(ids)
        media += [images] * len(ids)
    if eos:
        tokens.append(special["eos"])
        loss.append(learned)
        media.append(images)
    tokens, numbers = np.array(tokens, np.int32), np.array(media, np.int32)
    if next_image:
        numbers = _next_media(numbers, tokens == special["image"], images)
    return Tokenized(tokens, np.array(loss, bool), numbers, images)


def _next_media(numbers, is_image, images):
    following = np.where(is_image, numbers, numbers + 1)
    return np.where(following > images, 0, following).astype(np.int32)
