"""The calls that families have in common: of decoders, and of models that read images and text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from third_party.oracles.rows import token_rows, without
from third_party.oracles.variants import BEAMS, GREEDY, HIDDEN, Call

Arrays = dict[str, np.ndarray]
Settings = Mapping[str, Any]


def decoder_calls(
    takes_positions: bool, generates: bool, random: np.random.Generator, settings: Settings
) -> list[Call]:
    """Rows without padding, padded on the right, padded on the left; and rows to go on from."""
    left = token_rows(random, (14, 23, 19), side="left")
    calls = [
        Call("whole", without(token_rows(random, (17, 17, 17)), "position_ids"), kw=HIDDEN),
        Call("right", without(token_rows(random, (23, 17, 9)), "position_ids"), kw=HIDDEN),
        Call("left", left if takes_positions else without(left, "position_ids"), kw=HIDDEN),
    ]
    if generates:
        rows = without(token_rows(random, (5, 11, 8), side="left"), "position_ids")
        calls.append(Call("generate", rows, "generate", GREEDY))
    return calls


def searched(calls: Sequence[Call]) -> Call:
    """The prompts that are to be gone on from, by beam search."""
    prompts = next(call for call in calls if call.fn == "generate")
    return dataclasses.replace(prompts, name="beams", kw=BEAMS)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a family's rows hold images. The images of a call are numbered through all its rows.

    Attributes:
      span: (settings, number of the image) -> the tokens that stand for it.
      pixels: (random numbers, how many images each row has, settings) -> the arguments that hold the pixels.
      extra: (random numbers, the rows, how many images each row has, settings) -> other arguments.
      counts: how many images the rows have, for the calls whole, right, left and generate.
      first_position: the position of a row's first token; None where the class takes no positions.
      features: the method that gives an image's features alone, if it takes nothing but the pixels.
    """

    span: Callable[[Settings, int], Sequence[int]]
    pixels: Callable[[np.random.Generator, Sequence[int], Settings], Arrays]
    extra: Callable[[np.random.Generator, Arrays, Sequence[int], Settings], Arrays] = lambda *_: {}
    counts: Sequence[Sequence[int]] = ((1, 2, 1), (2, 1, 0), (1, 2, 1), (1, 2, 0))
    first_position: int | None = 0
    features: str | None = None


def image_text_calls(layout: Layout, random: np.random.Generator, settings: Settings) -> list[Call]:
    """Rows without padding, padded on the right and on the left, and rows to go on from; images in most of them."""

    def spans(counts):
        numbers = iter(range(sum(counts)))
        return [[layout.span(settings, next(numbers)) for _ in range(count)] for count in counts]

    def arrays(lengths, counts, side="right", positions=False):
        rows = token_rows(random, lengths, spans(counts), side)
        first = layout.first_position or 0
        rows["position_ids"] = (rows["position_ids"] + first) * rows["attention_mask"]
        rows |= layout.extra(random, rows, counts, settings) | layout.pixels(random, counts, settings)
        return rows if positions and layout.first_position is not None else without(rows, "position_ids")

    whole, right, left, generate = layout.counts
    taken = [sum(map(len, row)) for row in spans(whole)]
    calls = [
        Call("whole", arrays([9 + max(taken) - own for own in taken], whole), kw=HIDDEN),
        Call("right", arrays((12, 7, 9), right), kw=HIDDEN),
        Call("left", arrays((8, 11, 6), left, "left", positions=True), kw=HIDDEN),
        Call("generate", arrays((5, 7, 9), generate, "left"), "generate", GREEDY),
    ]
    if layout.features:
        calls.append(Call("features", layout.pixels(random, (2,), settings), layout.features))
    return calls
