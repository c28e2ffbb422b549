"""Stages: pictures with less detail and with noise, by the phase of the step alone."""

import dataclasses

import numpy as np
import pytest

from mmjax.data.assemble import ReadExample
from mmjax.data.keyed import normals
from mmjax.data.mixture import Phase
from mmjax.data.stages import shown, with_detail, with_noise


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


def test_less_detail_is_a_smaller_picture_made_large(picture):
    half = with_detail(picture, 0.5)
    assert half.shape == picture.shape and half.dtype == np.uint8
    means = picture.reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
    assert np.abs(half[::2, ::2].astype(float) - means).mean() < 25  # its neighbours show through
    flat = np.full((16, 16, 3), 77, np.uint8)
    assert np.array_equal(with_detail(flat, 0.3), flat)
    assert np.array_equal(with_detail(picture, 1.0), picture)
    assert np.ptp(with_detail(picture, 0.01).reshape(-1, 3), axis=0).max() == 0  # one pixel


def test_noise_is_that_of_its_key(picture):
    grey = np.full((64, 64, 3), 128, np.uint8)
    noisy = with_noise(grey, 0.1, key=7)
    assert noisy.astype(float).std() == pytest.approx(25.5, rel=0.03)
    assert noisy.mean() == pytest.approx(128, abs=1)
    assert np.array_equal(noisy, with_noise(grey, 0.1, key=7))
    assert not np.array_equal(noisy, with_noise(grey, 0.1, key=8))
    assert with_noise(picture, 0.0, key=7) is picture
    assert set(np.unique(with_noise(grey, 1.0, key=7))) >= {0, 255}  # clipped, not wrapped


def test_normal_numbers_are_normal():
    numbers = normals(3, 100_000)
    assert abs(numbers.mean()) < 0.01
    assert numbers.std() == pytest.approx(1.0, abs=0.01)
    for limit, share in ((1.0, 0.3173), (2.0, 0.0455)):
        assert (np.abs(numbers) > limit).mean() == pytest.approx(share, abs=0.01)


def test_examples_are_shown_as_their_phase_says(picture):
    example = ReadExample("a:0:1", None, ((picture, picture), (picture,)))
    assert shown(example, Phase(0), 0) is example
    coarse = shown(example, Phase(0, detail=0.5), 0)
    assert (coarse.id, coarse.text) == (example.id, example.text)
    assert all(np.array_equal(frame, with_detail(picture, 0.5)) for medium in coarse.media for frame in medium)
    noisy = shown(example, Phase(0, noise=0.2), 0).media
    frames = [frame for medium in noisy for frame in medium]
    assert len({frame.tobytes() for frame in frames}) == 3
    other = shown(dataclasses.replace(example, id="a:0:2"), Phase(0, noise=0.2), 0).media
    assert not np.array_equal(other[0][0], noisy[0][0])
