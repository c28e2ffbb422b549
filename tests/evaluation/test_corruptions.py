"""Corruptions: more of them harms more, and the same draws give the same."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from mmjax.core.errors import InputError
from mmjax.core.example import Media
from mmjax.evaluation import corruptions
from mmjax.evaluation.benchmark import Item

OF_PIXELS = ("blur", "noise", "jpeg", "occlusion")


@pytest.fixture(scope="module")
def photo():
    """Edges, slopes and fine grain, 96 x 128."""
    rows, columns = np.mgrid[0:96, 0:128].astype(np.float32)
    planes = [
        120 + 60 * np.sin(rows / 7) + 30 * np.sin(columns / 2),
        90 + columns + 40 * ((rows // 12 + columns // 12) % 2),
        200 - rows + 20 * np.sin(rows * columns / 90),
    ]
    return np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b) ** 2))


@pytest.mark.parametrize("kind", OF_PIXELS)
def test_a_stronger_corruption_leaves_less_of_the_picture(kind, photo):
    for key in (1, 2, 3):
        whole = [corruptions.corrupt_picture(photo, kind, strength, key) for strength in corruptions.STRENGTHS]
        assert all(one.shape == photo.shape and one.dtype == np.uint8 for one in whole)
        values = [psnr(photo, one) for one in whole]
        assert all(later < earlier for earlier, later in itertools.pairwise(values)), values
        assert values[0] < 45


@pytest.mark.parametrize("kind", OF_PIXELS)
def test_the_same_key_gives_the_same_and_another_one_does_not(kind, photo):
    before = photo.copy()
    first = corruptions.corrupt_picture(photo, kind, 3, 11)
    assert np.array_equal(first, corruptions.corrupt_picture(photo, kind, 3, 11))
    assert np.array_equal(photo, before)
    other = corruptions.corrupt_picture(photo, kind, 3, 12)
    assert np.array_equal(first, other) == (kind in ("blur", "jpeg"))  # these draw nothing


def test_noise_has_the_published_deviation_whatever_the_size():
    for size in ((100, 120), (448, 500)):
        grey = np.full((*size, 3), 128, np.uint8)
        noise = corruptions.corrupt_picture(grey, "noise", 1, 5).astype(np.float64) - 128
        assert noise.std() == pytest.approx(0.08 * 255, rel=0.03)
    # A picture of twice the size has grains of twice the size.
    assert np.array_equal(noise[0::2, 0::2][:200, :200], noise[1::2, 1::2][:200, :200])


def test_a_share_of_the_area_is_covered_and_the_rectangles_nest(photo):
    covered = []
    for strength, share in zip(corruptions.STRENGTHS, (0.1, 0.2, 0.3, 0.45, 0.6), strict=True):
        grey = (corruptions.corrupt_picture(photo, "occlusion", strength, 9) == 127).all(axis=-1)
        assert grey.mean() == pytest.approx(share, abs=0.01)
        covered.append(grey)
    for smaller, larger in itertools.pairwise(covered):
        assert (smaller & ~larger).sum() <= 0.02 * smaller.sum()  # but for the rounding of edges


def test_jpeg_is_that_of_the_published_quality(photo):
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG", quality=25)
    other = np.asarray(Image.open(buffer).convert("RGB"))
    ours = corruptions.corrupt_picture(photo, "jpeg", 1, 0)
    assert np.abs(other.astype(int) - ours).max() <= 2


def test_typos_come_at_their_rates_in_the_three_ways():
    text = "the quick brown fox jumps over the lazy dog " * 200
    letters = sum(letter.isalpha() for letter in text)
    dropped = []
    for strength, rate in zip(corruptions.STRENGTHS, (0.02, 0.05, 0.1, 0.15, 0.25), strict=True):
        typed = corruptions.mistyped(text, strength, 3)
        assert typed == corruptions.mistyped(text, strength, 3) != corruptions.mistyped(text, strength, 4)
        dropped.append(len(text) - len(typed))
        assert dropped[-1] == pytest.approx(letters * rate / 3, rel=0.35)
        assert set(typed) <= set(text)
    assert dropped == sorted(dropped)
    assert corruptions.mistyped("12 + 7 = ?", 5, 1) == "12 + 7 = ?"


def test_a_mistyped_letter_is_beside_the_right_one():
    for letter, keys in {"g": "tyfhvb", "q": "wa", "m": "njk", "p": "ol"}.items():
        made = {corruptions.mistyped(letter, 5, key) for key in range(3000)}
        assert made == {*keys, letter, ""}
    assert {corruptions.mistyped("G", 5, key) for key in range(3000)} == {*"GTYFHVB", ""}
    assert "ba" in {corruptions.mistyped("ab", 5, key) for key in range(100)}


def test_an_items_pictures_are_corrupted_when_they_are_decoded(photo):
    calls = []

    def decode():
        calls.append(1)
        return photo

    item = Item("7", (Media((decode,)), Media((photo,))), {"question": "what is it?"}, ("a",))
    made = corruptions.corrupted(item, "noise", 2, seed=0)
    assert not calls and made.fields == item.fields
    (first,), (second,) = (medium.load() for medium in made.media)
    assert len(calls) == 1
    assert not np.array_equal(first, photo) and not np.array_equal(first, second)  # each has draws of its own
    again = corruptions.corrupted(item, "noise", 2, seed=0).media[0].load()[0]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, corruptions.corrupted(item, "noise", 2, seed=1).media[0].load()[0])
    tiles = Item("8", (Media((lambda: np.stack([photo, photo]),)),), {}, ("a",))
    assert corruptions.corrupted(tiles, "blur", 1, seed=0).media[0].load()[1].shape == photo.shape


def test_missing_takes_pictures_away_and_typos_change_the_question_alone(photo):
    item = Item("7", (Media((photo,)),), {"question": "what is the colour of it?", "hint": "look there"}, ("a",))
    bare = corruptions.corrupted(item, "missing", 1, seed=0)
    assert bare.media == () and bare.fields == item.fields
    typed = corruptions.corrupted(item, "typos", 5, seed=0)
    assert typed.media == item.media and typed.fields["hint"] == "look there"
    assert typed.fields["question"] != item.fields["question"]


def test_what_cannot_be_corrupted_is_told(photo):
    item = Item("7", (Media((photo,)),), {}, ("a",))
    with pytest.raises(InputError, match="no question for typos"):
        corruptions.corrupted(item, "typos", 1, seed=0)
    with pytest.raises(InputError, match="no corruption 'blurr'"):
        corruptions.corrupted(item, "blurr", 1, seed=0)
    with pytest.raises(InputError, match="from 1 to 1, not 2"):
        corruptions.corrupted(item, "missing", 2, seed=0)
    with pytest.raises(InputError, match="no corruption of pixels"):
        corruptions.corrupt_picture(photo, "typos", 1, 0)
