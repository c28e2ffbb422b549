"""The drawn row of `assemble`, field by field, and records that do not fit."""

import numpy as np
import pytest

from mmjax.core.errors import DataError
from mmjax.core.example import Example, Media, Text
from mmjax.data.assemble import BatchShape, assemble, read_example
from mmjax.text.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()
S, END, PIC = (TOKENIZER.special[name] for name in ("bos", "eos", "image"))
B, C, D = (TOKENIZER.encode(letter)[0] for letter in "bcd")
SHAPE = BatchShape(rows=1, length=10, images=3, frames=1, image_size=2)


def picture(level, side=2):
    return np.full((side, side, 3), level, np.uint8)


def drawn_row(shape=SHAPE, first=None, **settings):
    """The row drawn in the docstring of `assemble`; every text is learned."""
    examples = [
        Example("one", (Text("b", loss=True), Media(first or (picture(7),)), Text("c", loss=True))),
        Example("two", (Media((picture(9),)), Text("d", loss=True))),
    ]
    read = [read_example(example, TOKENIZER, shape, next_image=False) for example in examples]
    return assemble([read], [4], [0.5], shape, TOKENIZER, **{"no_loss_before_first_image": True} | settings)


def test_the_drawn_row():
    batch = drawn_row()
    assert batch.tokens.tolist() == [[S, B, PIC, C, END, S, PIC, D, END, 0]]
    assert batch.segment_ids.tolist() == [[1, 1, 1, 1, 1, 2, 2, 2, 2, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3, 0]]
    assert batch.targets.tolist() == [[B, PIC, C, END, 0, PIC, D, END, 0, 0]]
    assert batch.media_index.tolist() == [[0, 0, 1, 1, 1, 0, 2, 2, 2, 0]]
    assert batch.loss_weights.tolist() == [[0, 0, 0.5, 0.5, 0, 0, 0.5, 0.5, 0, 0]]
    assert batch.images.shape == (1, 3, 2, 2, 3)
    assert batch.images[0, :, 0, 0, 0].tolist() == [7, 9, 0]
    assert batch.image_mask.tolist() == [[True, True, False]]
    assert batch.dataset_ids.tolist() == [4]
    integers = (batch.tokens, batch.segment_ids, batch.positions, batch.targets, batch.media_index, batch.dataset_ids)
    assert {field.dtype for field in integers} == {np.dtype(np.int32)}
    assert (batch.loss_weights.dtype, batch.images.dtype, batch.image_mask.dtype) == (np.float32, np.uint8, bool)


def test_text_before_the_first_image_is_learned_where_asked():
    batch = drawn_row(no_loss_before_first_image=False)
    assert batch.loss_weights.tolist() == [[0.5, 0, 0.5, 0.5, 0, 0, 0.5, 0.5, 0, 0]]


def test_a_video_has_a_frame_axis():
    shape = BatchShape(rows=1, length=10, images=3, frames=4, image_size=2)
    batch = drawn_row(shape, first=(picture(1), picture(2), picture(3)))
    assert batch.images.shape == (1, 3, 4, 2, 2, 3)
    assert batch.images[0, :2, :, 0, 0, 0].tolist() == [[1, 2, 3, 0], [9, 0, 0, 0]]
    assert batch.image_mask.tolist() == [[[True] * 3 + [False], [True] + [False] * 3, [False] * 4]]
    assert np.array_equal(batch.media_index, drawn_row().media_index)


@pytest.mark.parametrize(
    ("frames", "kind"),
    [((picture(1, side=3),), "picture_shape"), ((picture(1), picture(2)), "frames"), ((), "frames")],
)
def test_media_that_do_not_fit_are_bad_records(frames, kind):
    with pytest.raises(DataError, match="one") as caught:
        read_example(Example("one", (Media(frames),)), TOKENIZER, SHAPE, next_image=False)
    assert caught.value.kind == kind
