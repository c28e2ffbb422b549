"""Which picture a token of a prompt may look at, for checkpoints with cross-attention: Mllama and IDEFICS."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def mllama_mask(
    ids: Sequence[Sequence[int]], image_id: int, num_tiles: Sequence[Sequence[int]], most_tiles: int
) -> np.ndarray:
    """`cross_attention_mask` [B, T, N, tiles], int64: 1 where a token may look at a tile; rows end with the longest.

    A token looks at the last image token before it and at those that follow one another directly up to it; the last
    of these spans ends with the row, or with the batch's longest row where the row has one picture:

        image token  A  .  B  C  .  .
        picture A    1  1  0  0  0  0
        picture B    0  0  1  1  1  1
        picture C    0  0  0  1  1  1
    """
    length = max(map(len, ids))
    spans = []
    for row in ids:
        starts = [t for t, token in enumerate(row) if token == image_id]
        ends = [*starts, length if len(starts) == 1 else len(row)][1:]
        for n in reversed(range(len(starts) - 1)):
            if ends[n] == starts[n] + 1:
                ends[n] = ends[n + 1]
        spans.append(list(zip(starts, ends, strict=True)))
    mask = np.zeros((len(ids), length, max(map(len, spans)), most_tiles), np.int64)
    for b, (row, counts) in enumerate(zip(spans, num_tiles, strict=True)):
        for n, ((start, end), tiles) in enumerate(zip(row, counts, strict=True)):
            mask[b, start:end, n, :tiles] = 1
    return mask


def idefics_mask(ids: np.ndarray, image_id: int, eos_id: int | None, pictures: int) -> np.ndarray:
    """`image_attention_mask` [B, T, N] of N = `pictures`, int64: 1 where the token's last image before it is that one.

    After an end of text (`eos_id`) a token looks at no picture until the next image token:

        token      .  A  .  eos  .  B  .
        picture A  0  1  1  1    0  0  0
        picture B  0  0  0  0    0  1  1
    """
    images = ids == image_id
    last = np.cumsum(images, axis=1) - 1
    position = np.arange(ids.shape[1])[None]
    last_image = np.maximum.accumulate(np.where(images, position, -1), axis=1)
    last_end = np.maximum.accumulate(np.where(ids == eos_id, position, -1), axis=1)
    before = np.pad(last_end[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    seen = (last >= 0) & (before <= last_image)
    return (seen[:, :, None] & (last[:, :, None] == np.arange(pictures))).astype(np.int64)
