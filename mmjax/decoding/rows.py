"""Prompts -> padded rows: lengths in a few buckets, so that a few programs serve all prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import flax.struct
import numpy as np

from mmjax.core.arrays import Array, Int
from mmjax.core.errors import InputError
from mmjax.decoding.prompt import Prompt
from mmjax.text.prompt import Layout, Tokenized, tokenize
from mmjax.text.tokenizer import Tokenizer

# The smallest buckets: of the tokens of a prompt, and of those to be written.
PROMPT_BUCKET, NEW_BUCKET = 32, 16


@flax.struct.dataclass
class Rows:
    """Prompts of different lengths, each at the start of its row; a row of length 0 is padding of the batch.

    `media_index[t]` is the image that position t looks at, `last_media` the one that what follows looks at, and
    `slots [B,N]` says which of the encoded pictures image n of a row is (-1: none).
    """

    tokens: Int[Array, "B T"]
    lengths: Int[Array, "B"]
    media_index: Int[Array, "B T"]
    last_media: Int[Array, "B"]
    slots: Int[Array, "B N"]


def bucket(number: int, smallest: int = 1) -> int:
    """The least of `smallest` times 1, 1.5, 2, 3, 4, 6, 8, ... that holds `number` (whole numbers only)."""
    size = smallest
    while size < number:
        half = size + size // 2
        if size % 2 == 0 and number <= half:
            return half
        size *= 2
    return size


def plan_buckets(lengths: Iterable[int], *, program_cost: int, multiple: int = 8) -> tuple[int, ...]:
    """The bucket lengths with which rows of `lengths` cost least, when all lengths are known beforehand.

    The cost is the padded tokens, and `program_cost` tokens for each bucket: compiling a program takes as long as
    running it over so many. Bucket lengths are multiples of `multiple`; every length fits in one.
    """
    rounded = np.array([-(-length // multiple) * multiple for length in lengths], np.int64)
    sizes, counts = np.unique(rounded, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    best, start = [0.0], [0]
    for stop in range(1, len(sizes) + 1):
        # The last bucket holds sizes[first:stop].
        costs = [best[first] + program_cost + sizes[stop - 1] * (below[stop] - below[first]) for first in range(stop)]
        start.append(int(np.argmin(costs)))
        best.append(costs[start[-1]])
    chosen, stop = [], len(sizes)
    while stop:
        chosen.append(int(sizes[stop - 1]))
        stop = start[stop]
    return tuple(reversed(chosen))


def tokenize_prompt(
    prompt: Prompt,
    tokenizer: Tokenizer,
    layout: Layout = Layout(),  # noqa: B008 (frozen)
) -> Tokenized:
    """Tokens of a prompt: the first token, then its segments; it is left open for what is to be written."""
    return tokenize(prompt.segments, tokenizer, eos=False, layout=layout)


def pad_rows(
    prompts: Sequence[Tokenized], slots: Sequence[Sequence[int]], *, rows: int, length: int, images: int, pad: int
) -> Rows:
    """`rows` rows of `length` tokens and `images` pictures.

    Two prompts, `s I a` with picture 7 and `s I b I` with pictures 4 and 7, in three rows of 5 tokens and 2 pictures:

        tokens   s I a . .     media_index   0 1 1 . .     slots    7 -1     lengths  3     last_media  1
                 s I b I .                   0 1 1 2 .              4  7              4                 2
                 . . . . .                   . . . . .             -1 -1              0                 0
    """
    made = Rows(
        tokens=np.full((rows, length), pad, np.int32),
        lengths=np.zeros(rows, np.int32),
        media_index=np.zeros((rows, length), np.int32),
        last_media=np.zeros(rows, np.int32),
        slots=np.full((rows, images), -1, np.int32),
    )
    for row, (prompt, pictures) in enumerate(zip(prompts, slots, strict=True)):
        stop = len(prompt.tokens)
        made.tokens[row, :stop] = prompt.tokens
        made.media_index[row, :stop] = prompt.media_number
        made.lengths[row] = stop
        made.last_media[row] = prompt.media_number[-1]
        made.slots[row, : len(pictures)] = pictures
    return made


def check_lengths(lengths: Iterable[int], max_length: int) -> None:
    """Raises InputError where a prompt with what is to follow has more positions than the model (0: no limit)."""
    longest = max(lengths, default=0)
    if max_length and longest > max_length:
        raise InputError(
            f"a prompt and what is to follow it have {longest} tokens, but the model has {max_length} positions; "
            "give fewer shots, a shorter prompt, or ask for fewer tokens"
        )
