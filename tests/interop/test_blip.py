"""BLIP-2 and InstructBLIP at the sizes that are released, and what of them cannot be represented."""

from __future__ import annotations

import pytest

from mmjax.core.errors import InputError
from mmjax.interop.configs import read_config, same_meaning, write_config
from mmjax.interop.families import FAMILIES
from mmjax.interop.layout import choose_spelling, lay_out

OPT = {"model_type": "opt", "hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 32, "ffn_dim": 10_240}
BLIP_2 = {"model_type": "blip-2", "image_token_index": 50_265, "text_config": OPT | {"word_embed_proj_dim": 2560}}
INSTRUCT = {"model_type": "instructblip", "image_token_index": 32_000, "text_config": {"model_type": "llama"}}


def opened(outside):
    family = FAMILIES[outside["model_type"]].resolve(outside)
    return family, read_config(family, outside)


def test_released_sizes():
    family, config = opened(BLIP_2)
    entries = lay_out(family, config, family.spellings[0]).entries
    shapes = {name: entry.shape for name, entry in entries.items()}
    assert shapes["query_tokens"] == (1, 32, 768)
    assert shapes["vision_model.embeddings.position_embedding"] == (1, 257, 1408)
    assert shapes["vision_model.encoder.layers.38.self_attn.qkv.bias"] == (3 * 1408,)
    assert shapes["qformer.encoder.layer.10.crossattention.attention.key.weight"] == (768, 1408)
    assert "qformer.encoder.layer.11.crossattention.attention.key.weight" not in shapes
    assert shapes["language_projection.weight"] == (2560, 768)
    assert shapes["language_model.model.decoder.layers.31.fc1.weight"] == (10_240, 2560)
    assert not any(name.startswith(("qformer.embeddings", "qformer.encoder.layer.0.intermediate.")) for name in shapes)


def test_the_question_and_the_width_that_the_language_model_has_by_default():
    family, config = opened(INSTRUCT)
    assert config.connector.width == config.decoder.width == 4096
    entries = lay_out(family, config, family.spellings[0]).entries
    assert entries["qformer.embeddings.word_embeddings.weight"].shape == (30_522, 768)
    assert entries["qformer.encoder.layer.3.intermediate.dense.weight"].shape == (3072, 768)
    assert entries["language_model.lm_head.weight"].shape == (32_000, 4096)
    assert choose_spelling(family, entries) == family.spellings[0]


@pytest.mark.parametrize("outside", [BLIP_2, INSTRUCT], ids=["blip-2", "instructblip"])
def test_config_from_ours_alone(outside):
    family, config = opened(outside)
    fresh = write_config(family, config, {})
    assert same_meaning(family, outside, fresh)
    assert fresh["qformer_config"]["encoder_hidden_size"] == 1408
    assert fresh["vision_config"]["model_type"] == f"{outside['model_type'].replace('-', '_')}_vision_model"


def test_refuses():
    with pytest.raises(InputError, match="no image_token_index, the token in whose places"):
        opened({**BLIP_2, "image_token_index": None})
    with pytest.raises(InputError, match=r"text_config\.model_type='t5'; known are: opt, llama"):
        opened({**BLIP_2, "text_config": {"model_type": "t5"}})
    with pytest.raises(InputError, match="use_decoder_only_language_model=False"):
        opened({**BLIP_2, "use_decoder_only_language_model": False})
    with pytest.raises(InputError, match="use_qformer_text_input=True"):
        opened({**BLIP_2, "qformer_config": {"use_qformer_text_input": True}})
