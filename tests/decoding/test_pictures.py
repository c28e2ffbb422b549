"""Pictures are encoded once, and rows gather their own."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.core.example import Media
from mmjax.decoding.pictures import PictureTable, encode_pictures, gather, picture_bytes
from tests.decoding.tiny_models import SIDE, picture, random_parameters, tiny_model


def test_a_picture_that_comes_again_keeps_its_slot():
    table = PictureTable()
    first, second = picture(0), picture(1)
    again = Media((lambda: first.frames[0].copy(),))
    assert [table.add(media) for media in (first, second, again, second)] == [0, 1, 0, 1]
    assert len(table) == 2


def test_chunks_are_padded():
    table = PictureTable()
    clip = Media((picture(1).frames[0], picture(2).frames[0]))
    table.add(picture(0)), table.add(clip)
    images, present = table.chunk(1, 3)
    assert images.shape == (3, 2, SIDE, SIDE, 3)
    np.testing.assert_array_equal(present, [[True, True], [False, False], [False, False]])
    np.testing.assert_array_equal(images[0], clip.load())
    np.testing.assert_array_equal(table.chunk(0, 1)[1], [[True, False]])


def test_pictures_of_one_call_have_one_size():
    table = PictureTable()
    table.add(picture(0))
    with pytest.raises(InputError, match="one is 4x8 and another 8x8"):
        table.add(Media((np.zeros((4, 8, 3), np.uint8),)))


def test_gather_numbers_the_pictures_of_a_row():
    features = jnp.arange(3 * 2, dtype=jnp.float32).reshape(3, 2, 1)
    media = gather(features, jnp.asarray([[2, 0], [1, -1]]))
    np.testing.assert_array_equal(media.segments, [[1, 1, 2, 2], [1, 1, 0, 0]])
    np.testing.assert_array_equal(media.features[0, :, 0], [4, 5, 0, 1])
    np.testing.assert_array_equal(media.features[1, :2, 0], [2, 3])


def test_features_do_not_depend_on_what_is_encoded_with_them():
    model = tiny_model()
    params = random_parameters(model)
    table = PictureTable()
    for seed in range(70):  # more than one chunk
        table.add(picture(seed))
    features = encode_pictures(model, params, table, capacity=96, mesh=None)
    assert features.shape[0] == 96 and picture_bytes(model, params) == features[0].nbytes
    images = np.stack([picture(seed).load()[0] for seed in (69, 3)])
    few = PictureTable()
    for image in images:
        few.add(Media((image,)))
    alone = encode_pictures(model, params, few, capacity=2, mesh=None)
    np.testing.assert_allclose(features[jnp.asarray([69, 3])], alone, atol=1e-5)
    assert np.abs(features[0] - features[1]).max() > 1e-2
