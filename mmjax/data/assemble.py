"""Examples -> the arrays of a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mmjax.core.arrays import UInt8
from mmjax.core.batch import Batch
from mmjax.core.errors import DataError
from mmjax.core.example import Example, Media
from mmjax.text.prompt import Layout, Tokenized, tokenize
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


@dataclasses.dataclass(frozen=True)
class ReadText:
    """An example with its tokens, and its pictures not yet decoded."""

    id: str
    text: Tokenized
    media: tuple[Media, ...]

    def decoded(self, shape: BatchShape, room: UInt8[np.ndarray, "N F h w 3"] | None = None) -> ReadExample:
        """The same with its pictures, decoded and checked. `room`: where they may come to lie, one after another.

        Raises DataError for a record that cannot be used.
        """
        side, media = (shape.image_size, shape.image_size, 3), []
        for number, medium in enumerate(self.media):
            frames = medium.load(None if room is None else room[number])
            if not 1 <= len(frames) <= shape.frames:
                raise DataError(f"{self.id}: a medium of {len(frames)} frames, rows have {shape.frames}", kind="frames")
            for frame in frames:
                if frame.shape != side or frame.dtype != np.uint8:
                    raise DataError(f"{self.id}: a picture {frame.dtype} {frame.shape}", kind="picture_shape")
            media.append(frames)
        return ReadExample(self.id, self.text, tuple(media))


def read_text(
    example: Example,
    tokenizer: Tokenizer,
    *,
    next_image: bool,
    layout: Layout = Layout(),  # noqa: B008 (frozen)
    max_tokens: int = 0,
) -> ReadText:
    """Tokens of one example, cut at `max_tokens`, and the pictures that are left. Decodes nothing.

    Raises DataError for a record that cannot be used.
    """
    text = tokenize(example.segments, tokenizer, next_image=next_image, layout=layout, max_tokens=max_tokens)
    media = [segment for segment in example.segments if isinstance(segment, Media)]
    return ReadText(example.id, text, tuple(media[: text.images]))


def read_example(
    example: Example,
    tokenizer: Tokenizer,
    shape: BatchShape,
    *,
    next_image: bool,
    layout: Layout = Layout(),  # noqa: B008 (frozen)
    max_tokens: int = 0,
) -> ReadExample:
    """Tokens of one example, cut at `max_tokens`, and its pictures, decoded and checked.

    Raises DataError for a record that cannot be used.
    """
    text = read_text(example, tokenizer, next_image=next_image, layout=layout, max_tokens=max_tokens)
    return text.decoded(shape)


def room_for(shape: BatchShape) -> UInt8[np.ndarray, "B N F h w 3"]:
    """Where the pictures of a batch may be decoded, not yet written."""
    return np.empty((shape.rows, shape.images, shape.frames, shape.image_size, shape.image_size, 3), np.uint8)


def assemble(
    rows: Sequence[Sequence[ReadExample]],
    dataset_ids: Sequence[int],
    loss_weights: Sequence[float],
    shape: BatchShape,
    tokenizer: Tokenizer,
    *,
    no_loss_before_first_image: bool,
    room: UInt8[np.ndarray, "B N F h w 3"] | None = None,
) -> Batch:
    """Packs examples into rows; each row's loss is weighed by its entry of `loss_weights`.

    `room` becomes the pictures of the batch; those that lie there already are not copied.

    One row of two examples, the first without a picture before its `b`; x marks a weighed target:

        tokens        s  b  I  c  /  s  I  d  /  .     s first, / last token, I image, . padding
        segment_ids   1  1  1  1  1  2  2  2  2  0
        positions     0  1  2  3  4  0  1  2  3  0
        targets       b  I  c  /  .  I  d  /  .  .
        media_index   0  0  1  1  1  0  2  2  2  0     numbered through the row
        loss                x  x        x  x
    """
    size = (shape.rows, shape.length)
    tokens = np.full(size, tokenizer.special["pad"], np.int32)
    targets, positions, segments, media_index = (np.zeros(size, np.int32) for _ in range(4))
    weights = np.zeros(size, np.float32)
    images = room_for(shape) if room is None else room
    present = np.zeros((shape.rows, shape.images, shape.frames), bool)
    for row, examples in enumerate(rows):
        medium = 0
        for example in examples:
            for frames in example.media:
                for place, frame in enumerate(frames):
                    if not np.may_share_memory(frame, images[row, medium, place]):
                        images[row, medium, place] = frame
                if len(frames) < shape.frames:
                    images[row, medium, len(frames) :] = 0
                present[row, medium, : len(frames)] = True
                medium += 1
        images[row, medium:] = 0
    texts = [example.text for examples in rows for example in examples]
    if texts:
        # All texts of the batch one after the other: where each begins in its row, and what is told of each token.
        lengths = np.array([len(text.tokens) for text in texts])
        of_row = np.repeat(np.arange(len(rows)), [len(examples) for examples in rows])
        numbers_in_row = np.concatenate([np.arange(len(examples)) for examples in rows])
        media = np.array([len(example.media) for examples in rows for example in examples])
        begins, media_before = (_before_in_row(x, numbers_in_row) for x in (lengths, media))
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        at = np.repeat(of_row * shape.length + begins, lengths) + within
        numbers = np.concatenate([text.media_number for text in texts])
        learned = np.concatenate([text.loss for text in texts])
        if no_loss_before_first_image:
            learned = learned & (numbers > 0)
        ids = np.concatenate([text.tokens for text in texts])
        tokens.ravel()[at] = ids
        positions.ravel()[at] = within
        segments.ravel()[at] = np.repeat(numbers_in_row + 1, lengths)
        media_index.ravel()[at] = np.where(numbers > 0, numbers + np.repeat(media_before, lengths), 0)
        # A token is the target of the one before it; an example's first one is none's.
        is_target = within > 0
        before = at[is_target] - 1
        targets.ravel()[before] = ids[is_target]
        weights.ravel()[before] = (learned * np.repeat(np.float32(loss_weights)[of_row], lengths))[is_target]
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


def _before_in_row(counts, numbers_in_row):
    """Of each example, the sum of `counts` over those before it in its row; they are numbered from 0 in each."""
    before = np.cumsum(counts) - counts
    return before - before[np.arange(len(counts)) - numbers_in_row]
