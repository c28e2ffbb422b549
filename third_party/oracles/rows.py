"""Rows of tokens and pictures that the calls are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PAD, BOS, EOS = 0, 1, 2
WORDS = range(3, 57)  # the tokens that are words; those that stand for images come after them
SPECIAL = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}

Image = Sequence[int]  # the tokens that stand for one image


def pictures(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.normal(size=shape).astype(np.float32)


def patches(
    random: np.random.Generator, shapes: Sequence[tuple[int, int]], patch: int, padding: int = 0
) -> dict[str, np.ndarray]:
    """Images cut into patches.

    Args:
      random: where the pixels come from; those of the padding are zero.
      shapes: rows and columns of patches of each image.
      patch: the side of a patch in pixels.
      padding: how many patches of padding the largest image has.

    Returns:
      `pixel_values` [B P patch*patch*3], `pixel_attention_mask` [B P] (0 at padding, int64) and `spatial_shapes` [B 2].
    """
    counts = np.array([rows * columns for rows, columns in shapes])
    mask = np.arange(counts.max() + padding) < counts[:, None]
    pixels = pictures(random, *mask.shape, patch * patch * 3) * mask[..., None]
    return {
        "pixel_values": pixels.astype(np.float32),
        "pixel_attention_mask": mask.astype(np.int64),
        "spatial_shapes": np.array(shapes, np.int64),
    }


def token_rows(
    random: np.random.Generator,
    lengths: Sequence[int],
    images: Sequence[Sequence[Image]] | None = None,
    side: str = "right",
    start: Sequence[int] = (),
    end: Sequence[int] = (),
) -> dict[str, np.ndarray]:
    """Rows of random words with images between them, padded to the longest.

    Args:
      random: where the words and the places of the images come from.
      lengths: how many words each row has.
      images: the images of each row, in order. Each stands right after a word of its own.
      side: where the padding goes, "left" or "right".
      start: the tokens that each row begins with.
      end: the tokens that each row ends with.

    Returns:
      `input_ids`, `attention_mask` (0 at padding) and `position_ids` (counted from the first that is no padding), each
      int64 [B T].
    """
    rows = []
    for row, length in enumerate(lengths):
        pieces = [[int(word)] for word in random.integers(WORDS.start, WORDS.stop, length)]
        own = images[row] if images else []
        for place, image in zip(sorted(random.permutation(length)[: len(own)]), own, strict=True):
            pieces[place] = pieces[place] + list(image)
        rows.append([*start, *(token for piece in pieces for token in piece), *end])
    longest = max(map(len, rows))
    tokens = np.full((len(rows), longest), PAD, np.int64)
    mask = np.zeros((len(rows), longest), np.int64)
    for row, real in enumerate(rows):
        place = slice(longest - len(real), None) if side == "left" else slice(len(real))
        tokens[row, place] = real
        mask[row, place] = 1
    return {
        "input_ids": tokens,
        "attention_mask": mask,
        "position_ids": np.maximum(np.cumsum(mask, axis=1) - 1, 0),
    }


def without(arrays: dict[str, np.ndarray], *names: str) -> dict[str, np.ndarray]:
    return {name: array for name, array in arrays.items() if name not in names}
