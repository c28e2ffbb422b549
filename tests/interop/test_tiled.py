"""Configs of LLaVA-NeXT, Idefics-3 and SmolVLM as they were released, and the names of their tensors."""

from __future__ import annotations

import pytest

from mmjax.core.errors import InputError
from mmjax.interop.configs import read_config, write_config
from mmjax.interop.families import FAMILIES
from mmjax.interop.layout import choose_spelling, lay_out

TEXT = {
    "model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 11,
    "intermediate_size": 20,
}  # fmt: skip
VISION = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}


def read(model_type, vision, **more):
    outside = {"model_type": model_type, "text_config": TEXT, "vision_config": {**VISION, **vision}, **more}
    family = FAMILIES[model_type].resolve(outside)
    return family, read_config(family, outside), outside


@pytest.mark.parametrize("name", ["idefics3", "idefics3_vision", "smolvlm_vision"])
def test_smolvlm_is_released_with_three_names_of_its_vision_tower(name):
    family, config, outside = read("smolvlm", {"model_type": name, "image_size": 512, "patch_size": 16}, scale_factor=4)
    assert config.vision.position_resize == "fraction"
    assert config.connector.shuffle == 4
    assert write_config(family, config, outside) == outside
    assert write_config(family, config, {})["vision_config"]["model_type"] == name


def test_another_vision_tower_is_refused():
    with pytest.raises(InputError, match=r"vision_config.model_type='clip_vision_model'"):
        read("idefics3", {"model_type": "clip_vision_model"})


def test_llava_next_without_pinpoints_has_those_of_its_release():
    family, config, _ = read("llava_next", {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14})
    assert config.tiles.resolutions == ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
    assert write_config(family, config, {})["image_grid_pinpoints"][3] == [1008, 336]


def test_pinpoints_that_are_no_whole_tiles():
    with pytest.raises(InputError, match="tiles of 336 pixels"):
        read("llava_next", {"model_type": "clip_vision_model", "image_size": 336}, image_grid_pinpoints=[[336, 500]])


def test_every_spelling_of_llava_next_is_recognised():
    family, config, _ = read("llava_next", {"model_type": "clip_vision_model", "image_size": 28, "patch_size": 14},
                             image_grid_pinpoints=[[28, 56]])  # fmt: skip
    newlines = set()
    for spelling in family.spellings:
        names = lay_out(family, config, spelling).entries
        assert choose_spelling(family, names) == spelling
        newlines |= {name for name in names if "newline" in name}
    assert newlines == {"image_newline", "model.image_newline"}
