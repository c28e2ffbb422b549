"""Llama 3.2 Vision's layout: both kinds of layer under one numbering, at full size, and what it refuses."""

from __future__ import annotations

import math

import pytest

from mmjax.core.errors import InputError
from mmjax.interop.configs import read_config, write_config
from mmjax.interop.families.mllama import mllama
from mmjax.interop.family import Place
from mmjax.interop.layout import lay_out


def read(layers, crossing, **text):
    outside = {"num_hidden_layers": layers, "cross_attention_layers": crossing, **text}
    return read_config(mllama, {"text_config": outside, "vision_config": {}})


def test_full_size():
    """Llama 3.2 11B Vision (40 layers, 8 of them crossing; tiles of 560 pixels) has 10,670,220,835 parameters."""
    config = read_config(mllama, {"text_config": {}, "vision_config": {"image_size": 560}})
    assert (config.cross.every, config.cross.offset, config.cross.before) == (4, 3, None)
    layout = lay_out(mllama, config, mllama.spellings[0])
    assert sum(math.prod(shape.shape) for shape in layout.shapes.values()) == 10_670_220_835
    assert layout.shapes["decoder/layers/cross_3/attention/query/kernel"].shape == (8, 4096, 32, 128)
    assert not any(path.startswith("decoder/tail") for path in layout.shapes)
    assert layout.entries["language_model.model.layers.38.cross_attn.k_norm.weight"].pieces[0].index == 7
    assert layout.entries["language_model.model.layers.39.self_attn.k_proj.weight"].shape == (1024, 4096)


@pytest.mark.parametrize(
    ("layers", "crossing", "strides", "places"),
    [
        (
            9,
            [1, 4, 7],
            (2, 1, None),
            {1: "layers/cross_1", 3: "layers/self_0", 4: "layers/cross_1", 8: "layers/self_1"},
        ),
        (8, [1, 4, 7], (1, 0, (1, 3, 5)), {1: "tail/cross_1", 4: "tail/cross_3", 6: "tail/self_4", 7: "tail/cross_5"}),
        (4, [1, 2], (1, 0, (1, 1)), {0: "tail/self_0", 1: "tail/cross_1", 2: "tail/cross_1_2", 3: "tail/self_1"}),
    ],
    ids=["regular", "at-the-end", "one-after-another"],
)
def test_numbers_of_layers(layers, crossing, strides, places):
    config = read(layers, crossing)
    assert (config.cross.every, config.cross.offset, config.cross.before) == strides
    assert config.decoder.layers == layers - len(crossing)
    found = mllama.all_places(config)
    assert sorted(found["cross"]) == crossing and sorted([*found["layer"], *found["cross"]]) == list(range(layers))
    blocks: dict[str, int] = {}
    for number, place in sorted({**found["layer"], **found["cross"]}.items()):
        index = blocks[place.prefix] = blocks.get(place.prefix, -1) + 1
        assert place == Place(place.prefix, index if "/layers/" in place.prefix else None)
        assert number not in places or place.prefix == f"decoder/{places[number]}"
    text = write_config(mllama, config, {})["text_config"]
    assert (text["num_hidden_layers"], text["cross_attention_layers"]) == (layers, crossing)


def test_a_stride_given_otherwise_is_the_same_model():
    """Nothing of config.json changes where the same layers are named in another way."""
    outside = {"text_config": {"num_hidden_layers": 9, "cross_attention_layers": [1, 4, 7]}, "vision_config": {}}
    config = read_config(mllama, outside)
    cross = type(config.cross)(**{**vars(config.cross), "every": 1, "offset": 0, "before": (1, 3, 5)})
    again = type(config)(**{**vars(config), "cross": cross})
    assert write_config(mllama, again, outside)["text_config"] == outside["text_config"]


def test_refuses():
    with pytest.raises(InputError, match="different layers among 5"):
        read(5, [1, 5])
    with pytest.raises(InputError, match="tie_word_embeddings"):
        read(5, [1], tie_word_embeddings=True)
    with pytest.raises(InputError, match="vision_output_dim=7, but 5"):
        read_config(mllama, {"text_config": {}, "vision_config": {"vision_output_dim": 7}})
