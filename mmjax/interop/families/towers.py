"""Text encoders of transformers (BERT, the text towers of CLIP and SigLIP), and the pairs of towers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.interop.families.decoder_settings import canonical, head_width, shallow_places, sizes, token_ids
from mmjax.interop.families.rows import ACTIVATIONS, CLIP_HEADS, CLIP_LAYER, attention, linear, norm
from mmjax.interop.families.vision import clip_vision, siglip2_vision, siglip_vision
from mmjax.interop.family import Family, Part, Row, token_inputs
from mmjax.interop.settings import Setting, Tree, fixed, named, only, same, within, written
from mmjax.models.encoders.text import TextEncoder, TextEncoderConfig
from mmjax.models.two_tower import TwoTower, TwoTowerConfig

_LAYERS = fixed(
    norm="layer",
    mlp_gated=False,
    mlp_bias=True,
    qkv_bias=True,
    out_bias=True,
    positions="learned",
    tied_embeddings=True,
)


def _layers(*more: Setting, length: int, eps: float, act: str, bidirectional: bool) -> tuple[Setting, ...]:
    return within(
        "decoder",
        (
            *sizes(),
            same("max_position_embeddings", "max_length", length),
            same("layer_norm_eps", "norm_eps", eps),
            named("hidden_act", "activation", ACTIVATIONS, act),
            head_width(written=False),
            fixed(causal=not bidirectional),
            _LAYERS,
            *more,
        ),
    )


def _text_family(
    model_type: str, architecture: str, defaults: Mapping[str, Any], settings, rows, **more: Any
) -> Family:
    return Family(
        model_type,
        architecture,
        TextEncoderConfig,
        tuple(settings),
        tuple(rows),
        lambda config: shallow_places(config.decoder, "decoder/"),
        TextEncoder,
        lambda config: token_inputs(),
        defaults=defaults,
        canonical=lambda config: dataclasses.replace(
            config, decoder=dataclasses.replace(canonical(config.decoder), remat="none", embedding_init=0.02)
        ),
        **more,
    )


_TOWER_ROWS = [
    Row("{base}embeddings.token_embedding.weight", "decoder/embedding"),
    Row("{base}embeddings.position_embedding.weight", "decoder/position_embedding"),
    *norm("{base}final_layer_norm", "decoder/final_norm"),
    *CLIP_LAYER,
    *CLIP_HEADS,
]
_TOWER = {"spellings": ({"base": "text_model."}, {}), "ignored": (r".*embeddings\.position_ids",)}


def _clip_end() -> Setting:
    """eos_token_id; configs that say 2 mean the highest id of the text, whatever it is."""

    def read(outside: Tree) -> dict[str, Any]:
        end = outside.get("eos_token_id", 49_407)
        return {"eos": None if end == 2 else end}

    return Setting(read, lambda config: {"eos_token_id": 2 if config.eos is None else config.eos})


def _text_head(config: TextEncoderConfig) -> dict[str, Any]:
    return {"projection_dim": config.projection} if config.projection else {}


clip_text = _text_family(
    "clip_text_model",
    "CLIPTextModel",
    {
        "vocab_size": 49_408,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
    },
    (
        *_layers(token_ids(bos_token_id=49_406), length=77, eps=1e-5, act="quick_gelu", bidirectional=False),
        fixed(pool="eos"),
        _clip_end(),
        written(_text_head),
    ),
    [*_TOWER_ROWS, *linear("text_projection", "projection")],
    detect=lambda shapes, spelling: {
        "projection": shapes["text_projection.weight"][0] if "text_projection.weight" in shapes else 0
    },
    not_exported=("projection",),
    **_TOWER,
)


def _siglip_projection() -> Setting:
    """projection_size; where it is missing or null, the tower's own width."""

    def read(outside: Tree) -> dict[str, Any]:
        return {"projection": outside.get("projection_size") or outside["hidden_size"]}

    return Setting(read, lambda config: {"projection_size": config.projection})


def _siglip_text(model_type: str, architecture: str) -> Family:
    return _text_family(
        model_type,
        architecture,
        {
            "vocab_size": 32_000,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
        (
            *_layers(
                token_ids(bos_token_id=49_406, eos_token_id=49_407),
                length=64,
                eps=1e-6,
                act="gelu_pytorch_tanh",
                bidirectional=True,
            ),
            fixed(pool="last", projection_bias=True),
            _siglip_projection(),
        ),
        [*_TOWER_ROWS, *linear("{base}head", "projection")],
        **_TOWER,
    )


siglip_text = _siglip_text("siglip_text_model", "SiglipTextModel")
siglip2_text = _siglip_text("siglip2_text_model", "Siglip2TextModel")


def _detect_bert(shapes, spelling) -> dict[str, Any]:
    pooler = f"{spelling.get('base', '')}pooler.dense.weight"
    return {
        "projection": shapes[pooler][0] if pooler in shapes else 0,
        "masked_lm": "cls.predictions.transform.dense.weight" in shapes,
    }


def _bert_architecture(config: TextEncoderConfig) -> dict[str, Any]:
    return {"architectures": ["BertForMaskedLM" if config.masked_lm else "BertModel"]}


bert = _text_family(
    "bert",
    "BertModel",
    {
        "vocab_size": 30_522,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
    (
        *_layers(
            same("type_vocab_size", "token_types", 2),
            fixed(norm_position="post", embedding_norm=True, final_norm=False),
            length=512,
            eps=1e-12,
            act="gelu",
            bidirectional=True,
        ),
        fixed(pool="first", projection_bias=True, projection_activation="tanh"),
        only("position_embedding_type", "absolute", None),
        only("is_decoder", False),
        only("add_cross_attention", False),
        written(_bert_architecture),
    ),
    [
        Row("{base}embeddings.word_embeddings.weight", "decoder/embedding"),
        Row("{base}embeddings.position_embeddings.weight", "decoder/position_embedding"),
        Row("{base}embeddings.token_type_embeddings.weight", "decoder/token_type_embedding"),
        *norm("{base}embeddings.LayerNorm", "decoder/embedding_norm"),
        *attention(
            "{base}encoder.layer.{layer}.attention",
            "{layer}/attention",
            "self.query",
            "self.key",
            "self.value",
            "output.dense",
        ),
        *norm("{base}encoder.layer.{layer}.attention.output.LayerNorm", "{layer}/attention_norm"),
        *linear("{base}encoder.layer.{layer}.intermediate.dense", "{layer}/mlp/up"),
        *linear("{base}encoder.layer.{layer}.output.dense", "{layer}/mlp/down"),
        *norm("{base}encoder.layer.{layer}.output.LayerNorm", "{layer}/mlp_norm"),
        *linear("{base}pooler.dense", "projection"),
        *linear("cls.predictions.transform.dense", "masked_lm"),
        *norm("cls.predictions.transform.LayerNorm", "masked_lm_norm"),
        Row("cls.predictions.bias", "masked_lm_bias"),
        Row("cls.predictions.decoder.weight", "masked_lm_unembedding", tied_to="decoder/embedding"),
        Row("cls.predictions.decoder.bias", "masked_lm_unembedding_bias", tied_to="masked_lm_bias"),
    ],
    spellings=({"base": "bert."}, {}),
    ignored=(r"cls\.seq_relationship\..*", r".*embeddings\.position_ids"),
    detect=_detect_bert,
    not_exported=("projection", "masked_lm"),
)


def _joint_width() -> Setting:
    """projection_dim, of both towers of CLIP."""

    def read(outside: Tree) -> dict[str, Any]:
        width = {"projection": outside.get("projection_dim", 512)}
        return {"vision": width, "text": width}

    return Setting(read, lambda config: {"projection_dim": config.text.projection})


def _in_pair(tower: Family) -> Family:
    """The tower where the pair's config says how wide its vectors are: a projection that is not there is missing."""
    return dataclasses.replace(tower, detect=lambda shapes, spelling: {})


def _pair(model_type: str, architecture: str, vision: Family, text: Family, settings, rows) -> Family:
    return Family(
        model_type,
        architecture,
        TwoTowerConfig,
        tuple(settings),
        tuple(rows),
        lambda config: {},
        TwoTower,
        lambda config: (
            jax.ShapeDtypeStruct((1, config.vision.image_size, config.vision.image_size, 3), jnp.float32),
            *token_inputs(),
        ),
        parts=(Part("vision", "vision_config", (_in_pair(vision),)), Part("text", "text_config", (_in_pair(text),))),
        spellings=({"vision.base": "vision_model.", "text.base": "text_model."},),
        not_exported=("scale_init", "bias_init", "image_mean", "image_std"),
    )


clip = _pair(
    "clip",
    "CLIPModel",
    clip_vision,
    clip_text,
    (_joint_width(), same("logit_scale_init_value", "scale_init", 2.6592)),
    [Row("logit_scale", "logit_scale", "1 -> ")],
)


def _siglip_pair(model_type: str, architecture: str, vision: Family, text: Family) -> Family:
    rows = [Row("logit_scale", "logit_scale"), Row("logit_bias", "logit_bias")]
    return _pair(model_type, architecture, vision, text, (fixed(bias_init=-10.0),), rows)


siglip = _siglip_pair("siglip", "SiglipModel", siglip_vision, siglip_text)
siglip2 = _siglip_pair("siglip2", "Siglip2Model", siglip2_vision, siglip2_text)

TOWERS = (bert, clip_text, siglip_text, siglip2_text, clip, siglip, siglip2)
