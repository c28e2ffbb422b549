"""The sizes that picture processors ask for: (height, width) in, (height, width) out, in whole pixels.

The formulas are those of transformers' image processors, down to where they round: a pixel more or less is a
different picture.
"""

from __future__ import annotations

import math

from mmjax.core.errors import InputError

Size = tuple[int, int]
IDEFICS3_LIMIT = 4096  # pixels of the longest edge
QWEN2_LARGEST_ASPECT = 200


def by_shortest_edge(size: Size, edge: int, longest: int | None = None) -> Size:
    """The short edge becomes `edge` and the other keeps the aspect, rounded down; `longest` bounds it."""
    short, long = min(size), max(size)
    scaled: float = edge
    if longest is not None and long / short * edge > longest:
        scaled = longest * float(short) / float(long)
        edge = round(scaled)
    if short == edge:
        return size
    # The product before the quotient: it decides which way a whole number falls.
    other = int(scaled * long / short)
    return (other, edge) if size[1] < size[0] else (edge, other)


def inside(size: Size, box: Size) -> Size:
    """As large as fits in `box` with the aspect kept, rounded down."""
    scale = min(box[0] / size[0], box[1] / size[1])
    return int(size[0] * scale), int(size[1] * scale)


def tile_grids(most: int) -> list[Size]:
    """Every (rows, columns) of at most `most` tiles, in the order that Mllama numbers them from 1."""
    return [(rows, columns) for rows in range(1, most + 1) for columns in range(1, most + 1) if rows * columns <= most]


def mllama_grid(size: Size, most: int, tile: int) -> Size:
    """The grid of tiles that needs the least enlargement, or else the least reduction; the smallest of several."""
    scales = {grid: min(grid[0] * tile / size[0], grid[1] * tile / size[1]) for grid in tile_grids(most)}
    enlarging = [scale for scale in scales.values() if scale >= 1]
    chosen = min(enlarging) if enlarging else max(scales.values())
    return min((grid for grid in scales if scales[grid] == chosen), key=math.prod)


def mllama_fit(size: Size, canvas: Size, tile: int) -> Size:
    """The picture's size on its canvas of tiles: at least a tile and at most the canvas, with the aspect kept."""
    height, width = (min(max(edge, tile), most) for edge, most in zip(size, canvas, strict=True))
    tall, wide = height / size[0], width / size[1]
    if wide < tall:
        return min(math.floor(size[0] * wide) or 1, height), width
    return height, min(math.floor(size[1] * tall) or 1, width)


def anyres_fit(size: Size, resolution: Size) -> Size:
    """LLaVA-NeXT: the picture's size inside the resolution, with the aspect kept, rounded up."""
    tall, wide = resolution[0] / size[0], resolution[1] / size[1]
    if wide < tall:
        return min(math.ceil(size[0] * wide), resolution[0]), resolution[1]
    return resolution[0], min(math.ceil(size[1] * tall), resolution[1])


def idefics3_resized(size: Size, longest: int) -> Size:
    """Idefics3: the long edge becomes `longest`, the short one an even number; then at most 4096 pixels long."""
    height, width = size
    aspect = width / height
    if width >= height:
        height, width = int(longest / aspect), longest
        height += height % 2
    else:
        height, width = longest, int(longest * aspect)
        width += width % 2
    height, width = max(height, 1), max(width, 1)
    aspect = width / height
    if width >= height and width > IDEFICS3_LIMIT:
        height, width = int(IDEFICS3_LIMIT / aspect), IDEFICS3_LIMIT
    elif height > width and height > IDEFICS3_LIMIT:
        height, width = IDEFICS3_LIMIT, int(IDEFICS3_LIMIT * aspect)
    return max(height, 1), max(width, 1)


def idefics3_whole_tiles(size: Size, tile: int) -> Size:
    """Idefics3: whole tiles each way, the long edge first."""

    def up(edge: int) -> int:
        return math.ceil(edge / tile) * tile

    height, width = size
    aspect = width / height
    if width >= height:
        width = up(width)
        return up(int(width / aspect)), width
    height = up(height)
    return height, up(int(height * aspect))


def qwen2_resized(size: Size, factor: int, least: int, most: int) -> Size:
    """Qwen2-VL: multiples of `factor` with between `least` and `most` pixels, the aspect nearly kept.

    Raises:
      InputError: one edge is more than 200 times the other.
    """
    if max(size) / min(size) > QWEN2_LARGEST_ASPECT:
        raise InputError(
            f"a picture of {size[1]} x {size[0]} pixels has an aspect above {QWEN2_LARGEST_ASPECT}, more than this "
            "checkpoint takes; cut it"
        )
    height, width = (round(edge / factor) * factor for edge in size)
    if height * width > most:
        shrink = math.sqrt(size[0] * size[1] / most)
        height, width = (max(factor, math.floor(edge / shrink / factor) * factor) for edge in size)
    elif height * width < least:
        grow = math.sqrt(least / (size[0] * size[1]))
        height, width = (math.ceil(edge * grow / factor) * factor for edge in size)
    return height, width


def pan_and_scan(size: Size, *, smallest: int, most: int, ratio: float) -> list[tuple[slice, slice]]:
    """Gemma 3: the crops (rows, columns) along the long edge of a picture of aspect `ratio` or more; none elsewhere."""
    height, width = size
    short, long = min(size), max(size)
    if long / short < ratio:
        return []
    count = min(most, max(2, min(math.floor(long / smallest), math.floor(long / short + 0.5))))
    step = math.ceil(long / count)
    if min(step, short) < smallest:
        return []
    cuts = [slice(step * i, min(step * (i + 1), long)) for i in range(count)]
    return [(slice(0, height), cut) if width >= height else (cut, slice(0, width)) for cut in cuts]
