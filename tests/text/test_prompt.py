"""Prompts from segments: the drawn grid, the loss flags, and images counted as they come."""

import numpy as np
import pytest

from mmjax.core.errors import ConfigError
from mmjax.core.example import Media, Text
from mmjax.text.prompt import Layout, tokenize
from mmjax.text.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()
PICTURE = Media((np.zeros((2, 2, 3), np.uint8),))
# <s> a <image> b c <image> d </s>, as drawn in the docstring of `tokenize`
SEGMENTS = (Text("a"), PICTURE, Text("bc", loss=True), PICTURE, Text("d"))


def test_the_drawn_grid_of_what_tokens_look_at():
    assert tokenize(SEGMENTS, TOKENIZER).media_number.tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    assert tokenize(SEGMENTS, TOKENIZER, next_image=True).media_number.tolist() == [1, 1, 1, 2, 2, 2, 0, 0]


def test_tokens_and_loss_flags():
    special = TOKENIZER.special
    made = tokenize((PICTURE, Text("hi"), Text("7.", loss=True, end_of_chunk=True), PICTURE), TOKENIZER)
    letters = TOKENIZER.encode("hi"), TOKENIZER.encode("7.")
    expected = [special["bos"], special["image"], *letters[0], *letters[1], special["end_of_chunk"], special["image"]]
    assert made.tokens.tolist() == [*expected, special["eos"]]
    assert made.loss.tolist() == [False] * 4 + [True] * 3 + [False] * 2
    assert made.images == 2


def test_the_end_is_learned_where_the_last_text_is():
    assert tokenize((PICTURE, Text("7.", loss=True)), TOKENIZER).loss.tolist() == [False, False, True, True, True]
    assert not tokenize((PICTURE, Text("7.")), TOKENIZER).loss.any()


def test_a_prompt_to_be_continued_has_the_tokens_of_the_whole():
    whole = tokenize((PICTURE, Text("is a"), Text(" dax.", loss=True)), TOKENIZER)
    prompt = tokenize((PICTURE, Text("is a")), TOKENIZER, eos=False)
    assert whole.tokens[: len(prompt.tokens)].tolist() == prompt.tokens.tolist()
    assert TOKENIZER.decode(whole.tokens[len(prompt.tokens) :]) == " dax."


def test_a_text_that_spells_the_placeholder_adds_no_image():
    made = tokenize((Text("an <image> in words"), PICTURE), TOKENIZER)
    assert made.images == 1
    assert (made.tokens == TOKENIZER.special["image"]).sum() == 1


def test_no_segments_are_only_the_frame():
    assert tokenize((), TOKENIZER).tokens.tolist() == [1, 2]
    assert tokenize((), TOKENIZER, bos=False, eos=False).tokens.shape == (0,)


def test_frames_are_not_decoded_for_tokens():
    def fail():
        raise AssertionError("decoded")

    assert tokenize((Media((fail,)),), TOKENIZER).images == 1


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (Layout(), "^ I a I b $"),
        (Layout(image_tokens=3), "^ I I I a I I I b $"),
        (Layout(image_tokens=0), "^ a b $"),
        (Layout(image_tokens=2, bos="after_images"), "I I ^ a I I b $"),
        (Layout(image_tokens=1, bos="none"), "I a I b $"),
    ],
)
def test_how_pictures_and_the_first_token_are_written(layout, expected):
    """Every token of a picture looks at it, and an example is as long as its layout says."""
    special = TOKENIZER.special
    signs = {special["bos"]: "^", special["image"]: "I", special["eos"]: "$"}
    made = tokenize((PICTURE, Text("a"), PICTURE, Text("b", loss=True)), TOKENIZER, layout=layout)
    shown = [signs.get(token) or TOKENIZER.decode([token]) for token in made.tokens.tolist()]
    assert " ".join(shown) == expected
    assert len(made.tokens) == layout.tokens_besides(2) + 2
    assert made.images == 2
    looks = made.media_number[made.tokens == special["image"]].tolist()
    assert looks == [1] * layout.image_tokens + [2] * layout.image_tokens
    assert made.loss.tolist() == [False] * (len(made.tokens) - 2) + [True, True]


def test_the_first_token_of_an_example_of_pictures_alone():
    special = TOKENIZER.special
    made = tokenize((PICTURE,), TOKENIZER, layout=Layout(bos="after_images"), eos=False)
    assert made.tokens.tolist() == [special["image"], special["bos"]]
    with pytest.raises(ConfigError, match="image_tokens must be 0 or more"):
        Layout(image_tokens=-1)
