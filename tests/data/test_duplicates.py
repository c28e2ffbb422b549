"""Hashes stand small changes, and near ones are found without comparing each with all."""

import io
import itertools

import numpy as np
from PIL import Image

from mmjax.data.duplicates import groups_of_near, perceptual_hash


def scenery(seed, size=(160, 120)):
    """A picture of soft blobs."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def hash_of(image):
    return perceptual_hash(np.asarray(image))


def compressed(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


def test_a_hash_stands_compression_size_and_brightness():
    hashes = [hash_of(scenery(seed)) for seed in range(30)]
    for seed, wanted in enumerate(hashes):
        for changed in (
            compressed(scenery(seed), 60),
            scenery(seed).resize((320, 240)),
            Image.eval(scenery(seed), lambda level: round(0.8 * level)),
        ):
            assert (hash_of(changed) ^ wanted).bit_count() <= 4
    assert min((one ^ other).bit_count() for one, other in itertools.combinations(hashes, 2)) > 8


def test_a_picture_of_one_shade_has_none():
    assert perceptual_hash(np.full((20, 30, 3), 99, np.uint8)) is None
    assert perceptual_hash(np.zeros((1, 1, 3), np.uint8)) is None


def chains(hashes, distance):
    """Groups by comparing each with all."""
    label = list(range(len(hashes)))
    for one, other in itertools.combinations(range(len(hashes)), 2):
        if (int(hashes[one]) ^ int(hashes[other])).bit_count() <= distance and label[one] != label[other]:
            label = [label[one] if place == label[other] else place for place in label]
    return label


def test_groups_are_those_of_comparing_all():
    rng = np.random.default_rng(0)
    for distance in (0, 1, 3, 7):
        hashes = rng.integers(0, 1 << 64, 60, np.uint64)
        for place in range(40):  # most differ in a few bits from one before
            flips = rng.choice(64, rng.integers(0, distance + 3), replace=False)
            hashes[59 - place] = hashes[rng.integers(0, 20)] ^ np.uint64(sum(1 << int(bit) for bit in flips))
        found = groups_of_near(hashes, distance)
        wanted = chains(hashes, distance)
        assert [[found[one] == found[other] for other in range(60)] for one in range(60)] == [
            [wanted[one] == wanted[other] for other in range(60)] for one in range(60)
        ]
    assert groups_of_near(np.zeros(0, np.uint64), 3).shape == (0,)


def test_many_of_them_are_quick():
    hashes = np.random.default_rng(1).integers(0, 1 << 64, 50_000, np.uint64)
    hashes[-3:] = hashes[:3] ^ np.uint64(0b101)
    found = groups_of_near(hashes, 3)
    assert len(np.unique(found)) == 50_000 - 3
    np.testing.assert_array_equal(found[-3:], found[:3])
