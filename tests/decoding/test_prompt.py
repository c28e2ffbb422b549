"""Prompts from text and pictures, and what is wrong with them in one line."""

import numpy as np
import pytest
from PIL import Image

from mmjax.core.errors import InputError
from mmjax.core.example import Media, Text
from mmjax.decoding.prompt import Prompt, as_media, load_frames, open_picture

A, B = np.zeros((4, 4, 3), np.uint8), np.ones((4, 4, 3), np.uint8)


def kinds(prompt):
    return [segment.text if isinstance(segment, Text) else segment.load()[0].max() for segment in prompt.segments]


def test_pictures_stand_where_the_text_marks_them():
    prompt = Prompt.from_text("see <image>one<image> two", [A, B])
    assert kinds(prompt) == ["see ", 0, "one", 1, " two"]
    assert str(prompt) == "see <image>one<image> two"
    assert kinds(Prompt.from_text("<image><image>", [A, B])) == [0, 1]


def test_one_picture_without_a_mark_stands_before_the_text():
    assert kinds(Prompt.from_text("this is a", [B])) == [1, "this is a"]
    assert kinds(Prompt.from_text("", [B])) == [1]


def test_text_alone():
    assert kinds(Prompt.from_text("once")) == ["once"]
    assert Prompt.from_text("").segments == ()


def test_shots_come_first_and_end_their_chunks():
    prompt = Prompt.from_text("this is a", [B]).after([(A, "this is a dax."), (as_media(B), "this is a wug.")])
    assert str(prompt) == "<image>this is a dax.<image>this is a wug.<image>this is a"
    assert [segment.end_of_chunk for segment in prompt.segments if isinstance(segment, Text)] == [True, True, False]
    assert len(prompt.media) == 3


@pytest.mark.parametrize(
    "text, pictures, message",
    [
        ("<image>one<image>two", [A], "the prompt has 2 <image> marks but 1 picture; give a picture for each"),
        ("<image>one", [], "the prompt has 1 <image> mark but no pictures"),
        ("<image>one", [A, B], "2 pictures but 1 <image> mark in the prompt"),
        ("two", [A, B], "2 pictures but no <image> marks in the prompt"),
    ],
)
def test_marks_and_pictures_must_agree(text, pictures, message):
    with pytest.raises(InputError) as caught:
        Prompt.from_text(text, pictures)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_open_picture(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(B * 200).save(path)
    assert load_frames(open_picture(path, size=8)).shape == (1, 8, 8, 3)
    assert np.array_equal(open_picture(path, size=4).load()[0], B * 200)
    path.write_bytes(path.read_bytes()[:40])
    for broken in (path, tmp_path / "missing.png"):
        with pytest.raises(InputError, match=broken.name):
            open_picture(broken, size=8)


@pytest.mark.parametrize(
    "frames",
    [(), (A, B[:2]), (A[..., :1],), (A.astype(np.float32),)],
    ids=["none", "sizes", "channels", "dtype"],
)
def test_frames_must_be_pictures_of_one_size(frames):
    with pytest.raises(InputError, match="uint8"):
        load_frames(Media(frames))
