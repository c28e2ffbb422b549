"""Pictures that are given as patches, of several sizes in one call."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.interop.calls.patches import given_pictures
from mmjax.interop.configs import read_config, write_config
from mmjax.interop.families import FAMILIES
from mmjax.models.encoders.vit import ViTConfig, ViTOutput

CONFIG = ViTConfig(image_size=4, patch_size=2, width=8, layers=1, heads=1, mlp_width=8)
SHAPES = [(1, 3), (2, 2), (3, 1)]


def arguments(shapes=SHAPES, count=7):
    """Patches that each hold their picture's number and their own, from 1; those of padding are numbered on."""
    numbers = np.arange(1, count + 1, dtype=np.float32) + 100 * np.arange(len(shapes), dtype=np.float32)[:, None]
    inside = np.arange(count) < np.prod(shapes, axis=1)[:, None]
    return {
        "pixel_values": np.repeat(numbers[..., None], 12, axis=-1),
        "pixel_attention_mask": inside.astype(np.int64),
        "spatial_shapes": np.array(shapes),
    }


def test_each_picture_lies_at_the_top_left():
    seen = given_pictures(CONFIG, arguments())
    cells = np.asarray(seen.images)[:, ::2, ::2, 0]
    assert seen.images.shape == (3, 6, 6, 3)
    assert cells[0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 0, 0]]
    assert cells[1].tolist() == [[101, 102, 105], [103, 104, 106], [107, 0, 0]]
    assert cells[2].tolist() == [[201, 204, 205], [202, 206, 207], [203, 0, 0]]
    own = np.where(cells % 100 <= np.array([3, 4, 3])[:, None, None], cells, 0) > 0
    assert np.array_equal(seen.present, own.reshape(3, 9))


def test_outputs_come_back_in_the_order_of_the_patches():
    given = arguments()
    seen = given_pictures(CONFIG, given)
    cells = seen.images[:, ::2, ::2, :1].reshape(3, 9, 1)
    found = seen.in_order(ViTOutput(cells, None, None, cells, jnp.stack([cells, 2 * cells])))
    expected = given["pixel_values"][..., :1]
    assert np.array_equal(found.features, expected) and np.array_equal(found.tokens, expected)
    assert np.array_equal(found.hidden, np.stack([expected, 2 * expected]))


def test_one_size_without_padding_has_no_mask():
    """The pixels of a patch lie row by row, the channels of each side by side."""
    picture = np.random.default_rng(0).normal(size=(2, 6, 4, 3)).astype(np.float32)
    patches = picture.reshape(2, 3, 2, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 6, 12)
    seen = given_pictures(CONFIG, {"pixel_values": patches, "spatial_shapes": np.array([[3, 2]] * 2)})
    assert seen.present is None and seen.places is None
    assert np.array_equal(seen.images, picture)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"spatial_shapes": None}, "spatial_shapes must give the rows and columns"),
        ({"spatial_shapes": np.array([(2, 4), (2, 2), (3, 1)])}, "at most 7 patches"),
        ({"spatial_shapes": np.array([(0, 3), (2, 2), (3, 1)])}, "at most 7 patches"),
        ({"pixel_attention_mask": None}, "pixel_attention_mask must be 1"),
        ({"pixel_attention_mask": np.ones((3, 7), np.int64)}, "pixel_attention_mask must be 1"),
        ({"pixel_values": np.zeros((3, 7, 10), np.float32)}, "patches of 10 numbers"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    given = {name: value for name, value in {**arguments(), **change}.items() if value is not None}
    with pytest.raises(InputError, match=message):
        given_pictures(CONFIG, given)


def test_number_of_patches_in_place_of_a_size():
    family = FAMILIES["siglip2_vision_model"]
    config = read_config(family, {"model_type": "siglip2_vision_model", "patch_size": 14, "num_patches": 729})
    assert config.image_size == 27 * 14
    written = write_config(family, config, {})
    assert written["num_patches"] == 729 and "image_size" not in written
    with pytest.raises(InputError, match="num_patches=730"):
        read_config(family, {"model_type": "siglip2_vision_model", "num_patches": 730})
