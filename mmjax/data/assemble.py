"""Examples -> the arrays of a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mmjax.core.batch import Batch
from mmjax.core.errors import DataError
from mmjax.core.example import Example, Media
from mmjax.text.prompt import Tokenized, tokenize
from mmjax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """`rows` rows of `length` tokens and `images` media of `frames` frames of `image_size` pixels each way."""

    rows: int
    length: int
    images: int
    frames: int
    image_size: int


@dataclasses.dataclass(frozen=True)
class ReadExample:
    """An example with its tokens, and its pictures decoded."""

    id: str
    text: Tokenized
    media: tuple[tuple[np.ndarray, ...], ...]


def read_example(example: Example, tokenizer: Tokenizer, shape: BatchShape, *, next_image: bool) -> ReadExample:
    """Decodes and checks one example. Raises DataError for a record that cannot be used."""
    media = tuple(segment.load() for segment in example.segments if isinstance(segment, Media))
    for frames in media:
        if not 1 <= len(frames) <= shape.frames:
            raise DataError(f"{example.id}: a medium of {len(frames)} frames, rows have {shape.frames}", kind="frames")
        for frame in frames:
            if frame.shape != (shape.image_size, shape.image_size, 3) or frame.dtype != np.uint8:
                raise DataError(f"{example.id}: a picture {frame.dtype} {frame.shape}", kind="picture_shape")
    return ReadExample(example.id, tokenize(example.segments, tokenizer, next_image=next_image), media)


def assemble(
    rows: Sequence[Sequence[ReadExample]],
    dataset_ids: Sequence[int],
    loss_weights: Sequence[float],
    shape: BatchShape,
    tokenizer: Tokenizer,
    *,
    no_loss_before_first_image: bool,
) -> Batch:
    """Packs examples into rows; each row's loss is weighed by its entry of `loss_weights`.

    One row of two examples, the first without a picture before its `b`; x marks a weighed target:

        tokens        s  b  I  c  /  s  I  d  /  .     s first, / last token, I image, . padding
        segment_ids   1  1  1  1  1  2  2  2  2  0
        positions     0  1  2  3  4  0  1  2  3  0
        targets       b  I  c  /  .  I  d  /  .  .
        media_index   0  0  1  1  1  0  2  2  2  0     numbered through the row
        loss                x  x        x  x
    """
    size = (shape.rows, shape.length)
    pad = tokenizer.special["pad"]
    tokens, targets = np.full(size, pad, np.int32), np.full(size, 0, np.int32)
    positions, segments, media_index = (np.zeros(size, np.int32) for _ in range(3))
    weights = np.zeros(size, np.float32)
    side = shape.image_size
    images = np.zeros((shape.rows, shape.images, shape.frames, side, side, 3), np.uint8)
    present = np.zeros((shape.rows, shape.images, shape.frames), bool)
    for row, examples in enumerate(rows):
        start = medium = 0
        for number, example in enumerate(examples, 1):
            text = example.text
            stop = start + len(text.tokens)
            here, before = slice(start, stop), slice(start, stop - 1)
            tokens[row, here] = text.tokens
            targets[row, before] = text.tokens[1:]
            positions[row, here] = np.arange(stop - start)
            segments[row, here] = number
            media_index[row, here] = np.where(text.media_number > 0, text.media_number + medium, 0)
            learned = text.loss & (text.media_number > 0) if no_loss_before_first_image else text.loss
            weights[row, before] = learned[1:] * np.float32(loss_weights[row])
            for frames in example.media:
                for place, frame in enumerate(frames):
                    images[row, medium, place] = frame
                present[row, medium, : len(frames)] = True
                medium += 1
            start = stop
    if shape.frames == 1:
        images, present = images[:, :, 0], present[:, :, 0]
    return Batch(
        tokens=tokens,
        positions=positions,
        segment_ids=segments,
        targets=targets,
        loss_weights=weights,
        media_index=media_index,
        images=images,
        image_mask=present,
        dataset_ids=np.array(dataset_ids, np.int32),
    )
