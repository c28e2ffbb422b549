"""The order of the rows of a global batch, in which devices get about as many images each, however many they are."""

from __future__ import annotations

from collections.abc import Sequence


def even_order(images: Sequence[int]) -> list[int]:
    """An order of rows with these numbers of images, so that consecutive blocks of equal size have about the same sum.

    It is a function of the batch alone, and serves any power of two of devices at once: rows of many images are joined
    with rows of few to pairs, pairs of many with pairs of few, and so on (folding, the first step of the balanced
    differencing method of Yakir, 1996). Of a batch of q 2^k rows, q odd, the smallest blocks are of q rows, dealt out
    in q turns, to the block of the fewest images the row of the most. Rows that all have the same number stay:

        images  6 1 2 5  ->  6 1 | 5 2
    """

    count = len(images)
    if len(set(images)) < 2:
        return list(range(count))
    blocks = count & -count  # the largest power of two in it
    dealt: list[tuple[int, list[int]]] = [(0, [])] * blocks
    falling = sorted(range(count), key=lambda row: (-images[row], row))
    for turn in range(0, count, blocks):
        dealt.sort(key=_total)
        deal = falling[turn : turn + blocks]
        dealt = [(total + images[row], [*rows, row]) for (total, rows), row in zip(dealt, deal, strict=True)]
    while len(dealt) > 1:
        dealt.sort(key=_total, reverse=True)
        many, few = dealt[: len(dealt) // 2], dealt[: len(dealt) // 2 - 1 : -1]
        dealt = [(big + small, rows + more) for (big, rows), (small, more) in zip(many, few, strict=True)]
    return dealt[0][1]


def _total(block):
    return block[0]
