"""ConvNeXt's config both ways."""

from __future__ import annotations

import dataclasses

import pytest

from mmjax.core.errors import InputError
from mmjax.interop.configs import read_config, write_config
from mmjax.interop.families import FAMILIES
from mmjax.models.encoders.convnext import SIZES

CONVNEXT = FAMILIES["convnext"]
# What the config.json on the hub says, without what does not concern the model's function.
TINY = {
    "model_type": "convnext",
    "depths": [3, 3, 9, 3],
    "hidden_sizes": [96, 192, 384, 768],
    "num_stages": 4,
    "patch_size": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "layer_scale_init_value": 1e-6,
    "num_channels": 3,
    "drop_path_rate": 0.0,
}


def test_published_config_is_our_row():
    """The published eps of the last norm is another one than that of the paper's code."""
    found = read_config(CONVNEXT, TINY)
    assert found == dataclasses.replace(SIZES["ConvNeXt-T"], final_norm_eps=1e-12)
    assert read_config(CONVNEXT, {"model_type": "convnext"}) == found
    assert write_config(CONVNEXT, found, TINY) == TINY


@pytest.mark.parametrize("name", SIZES)
def test_every_size_can_be_written(name):
    outside = write_config(CONVNEXT, SIZES[name], {})
    assert read_config(CONVNEXT, outside) == SIZES[name]


def test_what_cannot_be_represented_is_refused():
    for change, message in [
        ({"num_stages": 3}, "num_stages=3, depths"),
        ({"depths": [1] * 5, "hidden_sizes": [8] * 5, "num_stages": 5}, "at most 4 stages"),
        ({"depths": 3}, "wrong kind"),
        ({"depths": [3, 3, "9", 3]}, "wrong kind|whole number"),
        ({"num_channels": 1}, "num_channels=1; only 3"),
        ({"patch_size": [4, 4]}, "patch_size must be a whole number"),
        ({"layer_scale_init_value": -1.0}, "layer_scale"),
    ]:
        with pytest.raises(InputError, match=message):
            read_config(CONVNEXT, TINY | change)
    five = dataclasses.replace(SIZES["ConvNeXt-T"], depths=(1,) * 5, widths=(8,) * 5)
    for config, message in [
        (five, "at most 4 stages"),
        (dataclasses.replace(SIZES["ConvNeXt-T"], norm_eps=1e-5), "norm_eps=1e-05"),
    ]:
        with pytest.raises(InputError, match=message):
            write_config(CONVNEXT, config, {})
