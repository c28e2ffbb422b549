"""Transforms of pictures against their definitions."""

import dataclasses

import cv2
import numpy as np
import pytest

from mmjax.core.errors import ConfigError
from mmjax.data.keyed import Dice, fold
from mmjax.data.transforms import colour
from mmjax.data.transforms.augment import Augment, transformed
from mmjax.data.transforms.erase import GREY, cut_out, erased, patches_masked
from mmjax.data.transforms.randaugment import OPERATIONS, rand_augment
from mmjax.data.transforms.view import Box, crop_box


def noise(height=48, width=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


ALL = Augment(
    crop=(0.1, 1.0),
    flip=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    rand_augment=2,
    blur=0.5,
    grey=0.2,
    erase=0.3,
    cutout=0.2,
    masked_patches=0.1,
)


def test_nothing_is_done_unless_it_is_asked_for():
    picture = noise()
    assert Augment().is_off
    assert not ALL.is_off
    assert not Augment(crop=(0.5, 1.0)).is_off
    for key in range(20):
        assert transformed(picture, Augment(), key) is picture


@pytest.mark.parametrize("augment", [ALL, *(Augment(**{name: 0.5}) for name in ("flip", "hue", "erase", "cutout"))])
def test_a_key_decides_all(augment):
    picture = noise()
    before = picture.copy()
    made = [transformed(picture, augment, key) for key in range(30)]
    assert all(np.array_equal(first, transformed(picture, augment, key)) for key, first in enumerate(made))
    assert np.array_equal(picture, before)
    assert len({one.tobytes() for one in made}) > (1 if augment.flip else 5)
    assert {(one.shape, one.dtype.name) for one in made} == {((48, 64, 3), "uint8")}


def test_another_transform_changes_no_draws_of_the_others():
    picture = noise()
    grey = Augment(grey=0.5)
    both = dataclasses.replace(grey, flip=0.5)
    for key in range(20):
        alone, with_flip = transformed(picture, grey, key), transformed(picture, both, key)
        assert (with_flip == alone).all() or (with_flip == alone[:, ::-1]).all()


def test_a_flip_reverses_the_columns_with_its_probability():
    picture = noise()
    flips = 0
    for key in range(400):
        made = transformed(picture, Augment(flip=0.3), fold(1, key))
        flips += np.array_equal(made, picture[:, ::-1])
        assert np.array_equal(made, picture[:, ::-1]) or np.array_equal(made, picture)
    assert 90 <= flips <= 150


def test_random_crops_lie_inside_and_have_the_areas_and_aspects_asked_for():
    height, width = 480, 640
    areas, aspects = [], []
    for key in range(500):
        box = crop_box(height, width, Dice(fold(2, key)), area=(0.2, 0.5), aspect=(0.5, 2.0))
        assert 0 <= box.top < box.top + box.height <= height
        assert 0 <= box.left < box.left + box.width <= width
        areas.append(box.height * box.width / (height * width))
        aspects.append(box.width / box.height)
    assert 0.19 < min(areas) < 0.22
    assert 0.47 < max(areas) < 0.51
    assert 0.49 < min(aspects) < 0.55
    assert 1.8 < max(aspects) < 2.02
    assert abs(np.log(aspects).mean()) < 0.06  # as often high as wide


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (500, 1), (3, 1000)])
def test_a_crop_of_a_thin_picture_is_in_its_middle(height, width):
    box = crop_box(height, width, Dice(0), area=(0.9, 1.0), aspect=(3 / 4, 4 / 3))
    assert box.height >= 1
    assert box.width >= 1
    assert max(box.height, box.width) <= 4 / 3 * min(height, width) + 1
    assert abs(2 * box.left + box.width - width) <= 1
    assert abs(2 * box.top + box.height - height) <= 1


def test_a_box_of_a_picture_that_was_decoded_smaller():
    assert Box(10, 20, 40, 60).scaled_to(50, 100, whole=(100, 200)) == Box(5, 10, 20, 30)
    assert Box(0, 0, 1, 1).scaled_to(50, 100, whole=(100, 200)).of(noise(50, 100)).shape == (1, 1, 3)


def test_brightness_contrast_and_saturation_scale_what_they_say():
    picture = noise() // 4 + 60
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    near = {"atol": 1.01}
    assert np.allclose(colour.brightened(picture, 1.3), picture * 1.3, **near)
    mean = grey.mean()
    assert np.allclose(colour.contrasted(picture, 0.5), mean + (picture - mean) * 0.5, **near)
    assert np.allclose(
        colour.saturated(picture, 1.5), grey[..., None] + (picture - grey[..., None] * 1.0) * 1.5, **near
    )
    assert (colour.brightened(picture, 0) == 0).all()
    assert (colour.brightened(np.full((2, 2, 3), 200, np.uint8), 2) == 255).all()
    assert np.array_equal(colour.saturated(picture, 0), colour.greyed(picture))


def test_hue_turns_red_to_green_and_keeps_greys():
    red = np.zeros((2, 2, 3), np.uint8) + np.array([250, 0, 0], np.uint8)
    assert np.abs(colour.hue_turned(red, 1 / 3).astype(int) - [0, 250, 0]).max() < 8
    assert np.abs(colour.hue_turned(red, -1 / 3).astype(int) - [0, 0, 250]).max() < 8
    assert np.abs(colour.hue_turned(red, 0.5).astype(int) - colour.hue_turned(red, -0.5)).max() == 0
    grey = np.full((2, 2, 3), 77, np.uint8)
    assert np.array_equal(colour.hue_turned(grey, 0.2), grey)


def test_grey_has_equal_channels_and_blur_the_width_asked_for():
    made = colour.greyed(noise())
    assert (made == made[..., :1]).all()
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    spread = colour.blurred(np.repeat(np.repeat(point, 1, 0), 1, 1), 1.5)[..., 0].astype(float)
    across = spread.sum(axis=0)
    assert abs(np.sqrt((across * (np.arange(41) - 20) ** 2).sum() / across.sum()) - 1.5) < 0.15


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"autocontrast", "equalize"}))
def test_randaugment_does_nothing_at_magnitude_0(name):
    picture = noise()
    for strength in (0.0, -0.0):
        assert np.array_equal(OPERATIONS[name](picture, strength), picture)


def test_randaugment_operations_against_their_definitions():
    picture = noise()
    assert np.array_equal(OPERATIONS["posterize"](picture, 1.0), picture // 16 * 16)
    assert np.array_equal(OPERATIONS["solarize"](picture, 0.5), np.where(picture < 128, picture, 255 - picture))
    moved = OPERATIONS["translate_x"](picture, 0.5)
    step = round(0.225 * 64)
    assert np.array_equal(moved[:, step:], picture[:, :-step])
    assert (moved[:, :step] == 128).all()
    assert np.array_equal(OPERATIONS["translate_y"](picture, -0.5)[: 48 - 11], picture[11:])
    sheared = OPERATIONS["shear_x"](np.tile(np.arange(64, dtype=np.uint8)[None, :, None], (48, 1, 3)), 1.0)
    slopes = np.diff(sheared[8:40, 32, 0].astype(int))
    assert abs(abs(slopes.mean()) - 0.3) < 0.04
    stretched = OPERATIONS["autocontrast"](picture // 4 + 50, 0.3)
    assert stretched.min() <= 1
    assert stretched.max() >= 254
    dot = np.zeros((65, 65, 3), np.uint8)
    dot[32, 62] = 255
    place = np.unravel_index(OPERATIONS["rotate"](dot, 1.0)[..., 0].argmax(), (65, 65))
    assert np.abs(np.array(place) - [32 - 30 * np.sin(np.pi / 6), 32 + 30 * np.cos(np.pi / 6)]).max() <= 1


def test_randaugment_draws_every_operation_and_does_as_many_as_asked(monkeypatch):
    done = []
    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, lambda picture, strength, name=name: done.append((name, strength)))
    for key in range(100):
        rand_augment(noise(), Dice(fold(5, key)), layers=3, magnitude=4)
    assert len(done) == 300
    assert {name for name, _ in done} == set(OPERATIONS)
    assert {strength for _, strength in done} == {0.4, -0.4}


def test_cutout_is_a_grey_square_that_the_edges_cut():
    picture = np.zeros((40, 60, 3), np.uint8)
    counts = []
    for key in range(200):
        grey = (cut_out(picture, Dice(fold(3, key)), share=0.5) == GREY).all(axis=2)
        rows, columns = grey.any(axis=1).sum(), grey.any(axis=0).sum()
        assert grey.sum() == rows * columns
        assert max(rows, columns) <= 20
        counts.append(grey.sum())
    assert max(counts) == 400
    assert min(counts) >= 10 * 10


def test_erasing_puts_noise_in_a_rectangle_of_the_size_asked_for():
    picture = np.zeros((64, 64, 3), np.uint8)
    for key in range(100):
        changed = (erased(picture, Dice(fold(4, key)), area=(0.1, 0.2), aspect=(0.5, 2.0)) != 0).any(axis=2)
        rows, columns = changed.any(axis=1).sum(), changed.any(axis=0).sum()
        assert 0.09 < rows * columns / 64**2 < 0.22
        assert changed.sum() > 0.98 * rows * columns
        assert 0.45 < columns / rows < 2.2


@pytest.mark.parametrize(("shape", "patches"), [((32, 48), 6), ((33, 48), 9)])
def test_masked_patches_are_whole_and_exactly_the_share(shape, patches):
    picture = np.zeros((*shape, 3), np.uint8)
    made = patches_masked(picture, Dice(6), share=0.5, patch=16)
    grey = [
        (made[top : top + 16, left : left + 16] == GREY).all()
        for top in range(0, shape[0], 16)
        for left in range(0, shape[1], 16)
    ]
    assert len(grey) == patches
    assert sum(grey) == round(patches / 2)
    covered = sum(
        made[top : top + 16, left : left + 16, 0].size
        for (top, left), masked in zip(
            [(top, left) for top in range(0, shape[0], 16) for left in range(0, shape[1], 16)], grey, strict=True
        )
        if masked
    )
    assert (made[..., 0] == GREY).sum() == covered


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip": 1.5}, "flip must be between 0 and 1"),
        ({"hue": 0.6}, "hue must be between 0 and 0.5"),
        ({"magnitude": 11.0}, "magnitude must be between 0 and 10"),
        ({"crop": (0.5, 1.5)}, "crop must be two rising numbers above 0, up to 1"),
        ({"crop": (0.0, 1.0)}, "crop must be"),
        ({"sigma": (2.0, 1.0)}, "sigma must be two rising numbers"),
        ({"erase_aspect": (0.0, 1.0)}, "erase_aspect must be"),
        ({"patch": 0}, "patch"),
        ({"rand_augment": -1}, "rand_augment"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Augment(**settings)
