"""Picture encoders of transformers: ViT, the picture towers of CLIP, SigLIP and SigLIP-2, DINOv2 with and without
registers, the picture encoders of BLIP-2 and InstructBLIP, Idefics-3 and SmolVLM."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.core.errors import InputError
from mmjax.interop.families.rows import (
    ACTIVATIONS,
    CLIP_ATTENTION,
    CLIP_HEADS,
    CLIP_LAYER,
    PATCHES,
    attention,
    from_heads,
    fused,
    linear,
    norm,
    qkv,
)
from mmjax.interop.family import Family, Place, Row
from mmjax.interop.settings import Setting, Tree, fixed, labels, named, only, same, written
from mmjax.models.encoders.vit import ViT, ViTConfig


def _side(key: str, field: str, default: int) -> Setting:
    """A side in pixels, or two that must be equal."""

    def read(outside: Tree) -> dict[str, Any]:
        value = outside.get(key, default)
        sides = set(value) if isinstance(value, (list, tuple)) else {value}
        if len(sides) > 1:
            raise InputError(f"config.json has {key}={value}; only squares are supported")
        return {field: sides.pop()}

    return Setting(read, lambda config: {key: getattr(config, field)})


def _patch_count(default: int, patch_size: int) -> Setting:
    """num_patches, the learned positions of a square grid, in place of a side in pixels."""

    def read(outside: Tree) -> dict[str, Any]:
        count = outside.get("num_patches", default)
        side = math.isqrt(count)
        if side * side != count:
            raise InputError(f"config.json has num_patches={count}; only squares of whole numbers are supported")
        return {"image_size": side * _side("patch_size", "patch_size", patch_size).read(outside)["patch_size"]}

    return Setting(read, lambda config: {"num_patches": config.grid**2})


def tower_settings(
    *more: Setting,
    image_size: int | Setting,
    patch_size: int,
    eps: float,
    width: str = "hidden_size",
    heads: str = "num_attention_heads",
    norm_eps: str = "layer_norm_eps",
) -> tuple[Setting, ...]:
    """Sizes of a picture encoder, by the keys that most configs have; `eps` and sizes where they do not say."""
    return (
        same(width, "width"),
        same("num_hidden_layers", "layers"),
        same(heads, "heads"),
        same(norm_eps, "norm_eps", eps),
        image_size if isinstance(image_size, Setting) else _side("image_size", "image_size", image_size),
        _side("patch_size", "patch_size", patch_size),
        only("num_channels", 3),
        *more,
    )


# Sizes that the reference takes where config.json does not say: alike in all of these families.
_DEFAULTS = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}


def _family(
    model_type: str, architecture: str, settings, rows, *, detected: tuple[str, ...] = (), **kwargs: Any
) -> Family:
    return Family(
        model_type,
        architecture,
        ViTConfig,
        tuple(settings),
        tuple(rows),
        lambda config: {"layer": {layer: Place("layers", layer) for layer in range(config.layers)}},
        ViT,
        lambda config: (jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32),),
        defaults=_DEFAULTS,
        not_exported=("remat", "feature_layer", "feature_tokens", *detected),
        **kwargs,
    )


# ---- ViT and DINOv2: the same names, but for the norms and what DINOv2 adds.


def _bert_like_rows(first_norm: str, second_norm: str) -> list[Row]:
    outside = "{base}encoder.layer.{layer}"
    return [
        Row("{base}embeddings.cls_token", "class_token", "1 D -> 1 1 D"),
        Row("{base}embeddings.position_embeddings", ("class_position", "position_embedding"), "P D -> 1 +P D"),
        Row("{base}embeddings.patch_embeddings.projection.weight", "patch_kernel", PATCHES),
        Row("{base}embeddings.patch_embeddings.projection.bias", "patch_bias"),
        *norm("{base}layernorm", "final_norm"),
        *norm(f"{outside}.{first_norm}", "{layer}/attention_norm"),
        *norm(f"{outside}.{second_norm}", "{layer}/mlp_norm"),
        *attention(
            f"{outside}.attention",
            "{layer}/attention",
            "attention.query",
            "attention.key",
            "attention.value",
            "output.dense",
        ),
    ]


_CLASS_POOLED = fixed(class_token=True, class_position=True, pool="class")
# Of CLIP's picture towers, by whatever names.
CLIP_EMBEDDINGS = (_CLASS_POOLED, fixed(patch_bias=False, pre_norm_embeddings=True))


def _detect_vit(shapes, spelling) -> dict[str, Any]:
    """The mask token, and a pooler or a classifier, are there or not; config.json does not say."""
    base = spelling.get("base", "")
    found = {"mask_token": f"{base}embeddings.mask_token" in shapes}
    if "classifier.weight" in shapes:
        return found | {"projection": shapes["classifier.weight"][0], "projection_bias": True}
    if f"{base}pooler.dense.weight" in shapes:
        width = shapes[f"{base}pooler.dense.weight"][0]
        return found | {"projection": width, "projection_bias": True, "projection_activation": "tanh"}
    return found


def _vit_head(config: ViTConfig) -> dict[str, Any]:
    if config.projection_activation == "tanh" or not config.projection:
        return {"architectures": ["ViTModel"], "pooler_output_size": config.projection or config.width}
    return {"architectures": ["ViTForImageClassification"], **labels(config.projection)}


vit = _family(
    "vit",
    "ViTModel",
    tower_settings(
        same("intermediate_size", "mlp_width"),
        named("hidden_act", "activation", ACTIVATIONS, "gelu"),
        _CLASS_POOLED,
        only("qkv_bias", True),
        only("pooler_act", "tanh"),
        written(_vit_head),
        image_size=224,
        patch_size=16,
        eps=1e-12,
    ),
    [
        *_bert_like_rows("layernorm_before", "layernorm_after"),
        Row("{base}embeddings.mask_token", "mask_token", "1 D -> 1 1 D"),
        *linear("{base}encoder.layer.{layer}.intermediate.dense", "{layer}/mlp/up"),
        *linear("{base}encoder.layer.{layer}.output.dense", "{layer}/mlp/down"),
        *(row.only_where(projection_activation="tanh") for row in linear("{base}pooler.dense", "projection")),
        *(row.only_where(projection_activation="none") for row in linear("classifier", "projection")),
    ],
    spellings=({"base": "vit."}, {}),
    detect=_detect_vit,
    detected=("mask_token", "projection", "projection_bias", "projection_activation"),
)


def _dinov2_width() -> Setting:
    """mlp_ratio; a gated feed-forward keeps two thirds of it, rounded up to a multiple of 8."""

    def gated_width(hidden: int) -> int:
        return (int(hidden * 2 / 3) + 7) // 8 * 8

    def read(outside: Tree) -> dict[str, Any]:
        hidden = int(outside["hidden_size"] * outside.get("mlp_ratio", 4))
        if outside.get("use_swiglu_ffn", False):
            return {"mlp_gated": True, "activation": "silu", "mlp_width": gated_width(hidden)}
        act = named("hidden_act", "activation", ACTIVATIONS, "gelu").read(outside)
        return {"mlp_gated": False, "mlp_width": hidden} | act

    def write(config: ViTConfig) -> dict[str, Any]:
        ratios = [4, *range(1, 17)]
        wide = (lambda ratio: gated_width(config.width * ratio)) if config.mlp_gated else (lambda r: config.width * r)
        ratio = next((ratio for ratio in ratios if wide(ratio) == config.mlp_width), None)
        if ratio is None:
            raise InputError(f"DINOv2's layout has no whole mlp_ratio for an mlp_width of {config.mlp_width}")
        act = {} if config.mlp_gated else named("hidden_act", "activation", ACTIVATIONS, "gelu").write(config)
        return {"mlp_ratio": ratio, "use_swiglu_ffn": config.mlp_gated} | act

    return Setting(read, write)


_SWIGLU = ("{layer}/mlp/gate", "{layer}/mlp/up")
_DINOV2_ROWS = [
    *_bert_like_rows("norm1", "norm2"),
    Row("{base}embeddings.mask_token", "mask_token"),
    Row("{base}embeddings.register_tokens", "registers", "R D -> 1 R D"),
    Row("{base}encoder.layer.{layer}.layer_scale1.lambda1", "{layer}/attention_scale"),
    Row("{base}encoder.layer.{layer}.layer_scale2.lambda1", "{layer}/mlp_scale"),
    *(row.only_where(mlp_gated=False) for row in linear("{base}encoder.layer.{layer}.mlp.fc1", "{layer}/mlp/up")),
    *(row.only_where(mlp_gated=False) for row in linear("{base}encoder.layer.{layer}.mlp.fc2", "{layer}/mlp/down")),
    *fused("{base}encoder.layer.{layer}.mlp.weights_in", _SWIGLU, "D M -> (+M) D", "M -> (+M)"),
    *(
        row.only_where(mlp_gated=True)
        for row in linear("{base}encoder.layer.{layer}.mlp.weights_out", "{layer}/mlp/down")
    ),
]


def _dinov2(model_type: str, architecture: str, patch_size: int, *more: Setting) -> Family:
    return _family(
        model_type,
        architecture,
        tower_settings(
            _dinov2_width(),
            _CLASS_POOLED,
            same("layerscale_value", "layer_scale", 1.0),
            only("qkv_bias", True),
            written(lambda config: {"use_mask_token": config.mask_token}),
            *more,
            image_size=224,
            patch_size=patch_size,
            eps=1e-6,
        ),
        _DINOV2_ROWS,
        spellings=({"base": f"{model_type}."}, {}),
        detect=lambda shapes, spelling: {"mask_token": f"{spelling.get('base', '')}embeddings.mask_token" in shapes},
        detected=("mask_token",),
    )


dinov2 = _dinov2("dinov2", "Dinov2Model", 14)
dinov2_with_registers = _dinov2(
    "dinov2_with_registers",
    "Dinov2WithRegistersModel",
    16,
    same("num_register_tokens", "registers", 4),
    fixed(position_resize="bicubic_antialias"),
)

# ---- CLIP, SigLIP and SigLIP-2.

_TOWER_PATCHES = Row("{base}embeddings.patch_embedding.weight", "patch_kernel", PATCHES)
_TOWER_ROWS = [
    Row("{base}embeddings.patch_embedding.bias", "patch_bias"),
    *norm("{base}post_layernorm", "final_norm"),
    *CLIP_LAYER,
]
_TOWER_POSITIONS = Row("{base}embeddings.position_embedding.weight", "position_embedding")
_TOWER = {"spellings": ({"base": "vision_model."}, {}), "ignored": (r".*embeddings\.position_ids",)}


def _detect_clip(shapes, spelling) -> dict[str, Any]:
    return {"projection": shapes["visual_projection.weight"][0]} if "visual_projection.weight" in shapes else {}


def _clip_head(config: ViTConfig) -> dict[str, Any]:
    if not config.projection:
        return {}
    return {"architectures": ["CLIPVisionModelWithProjection"], "projection_dim": config.projection}


clip_vision = _family(
    "clip_vision_model",
    "CLIPVisionModel",
    tower_settings(
        same("intermediate_size", "mlp_width"),
        named("hidden_act", "activation", ACTIVATIONS, "quick_gelu"),
        *CLIP_EMBEDDINGS,
        written(_clip_head),
        image_size=224,
        patch_size=32,
        eps=1e-5,
    ),
    [
        _TOWER_PATCHES,
        *_TOWER_ROWS,
        *CLIP_HEADS,
        Row("{base}embeddings.class_embedding", "class_token", "1 D -> D"),
        Row("{base}embeddings.position_embedding.weight", ("class_position", "position_embedding"), "P D -> +P D"),
        *norm("{base}pre_layrnorm", "embedding_norm"),
        *linear("visual_projection", "projection"),
    ],
    detect=_detect_clip,
    detected=("projection",),
    **_TOWER,
)

_SIGLIP = (
    same("intermediate_size", "mlp_width"),
    named("hidden_act", "activation", ACTIVATIONS, "gelu_pytorch_tanh"),
    named("vision_use_head", "pool", {True: "map", False: "none"}, True),
)
_SIGLIP_ROWS = [
    *_TOWER_ROWS,
    *CLIP_HEADS,
    _TOWER_POSITIONS,
    Row("{base}head.probe", "pool/probe", "1 D -> 1 1 D"),
    *fused("{base}head.attention.in_proj", qkv("pool/attention"), "D H K -> (+H K) D", "H K -> (+H K)", join="_"),
    *linear("{base}head.attention.out_proj", "pool/attention/out", "H K D -> D (H K)", "D -> D"),
    *norm("{base}head.layernorm", "pool/mlp_norm"),
    *linear("{base}head.mlp.fc1", "pool/mlp/up"),
    *linear("{base}head.mlp.fc2", "pool/mlp/down"),
]
siglip_vision = _family(
    "siglip_vision_model",
    "SiglipVisionModel",
    tower_settings(*_SIGLIP, image_size=224, patch_size=16, eps=1e-6),
    [_TOWER_PATCHES, *_SIGLIP_ROWS],
    **_TOWER,
)
# It reads pictures that are cut into patches already, by a linear map of their pixels.
siglip2_vision = _family(
    "siglip2_vision_model",
    "Siglip2VisionModel",
    tower_settings(
        *_SIGLIP,
        fixed(position_resize="bilinear_antialias"),
        image_size=_patch_count(256, 16),
        patch_size=16,
        eps=1e-6,
    ),
    [Row("{base}embeddings.patch_embedding.weight", "patch_kernel", "p q C D -> D (p q C)"), *_SIGLIP_ROWS],
    **_TOWER,
)

# ---- Idefics-3 and SmolVLM: SigLIP without its head, for pictures with a border of padding.


def _idefics3(model_type: str) -> Family:
    """Neither is read by itself; `model_type` is what the whole model's config may call it."""
    family = _family(
        model_type,
        "Idefics3VisionTransformer",
        tower_settings(
            same("intermediate_size", "mlp_width"),
            named("hidden_act", "activation", ACTIVATIONS, "gelu_pytorch_tanh"),
            fixed(position_resize="fraction"),
            image_size=224,
            patch_size=32,
            eps=1e-6,
        ),
        [_TOWER_PATCHES, *_TOWER_ROWS, *CLIP_HEADS, _TOWER_POSITIONS],
        **_TOWER,
    )
    return dataclasses.replace(family, defaults={**_DEFAULTS, "hidden_size": 1152, "num_attention_heads": 16})


# The first releases say the whole model's name.
IDEFICS3_VISION = tuple(map(_idefics3, ("idefics3_vision", "idefics3")))
SMOLVLM_VISION = tuple(map(_idefics3, ("smolvlm_vision", "smolvlm", "idefics3_vision", "idefics3")))

# ---- BLIP-2 and InstructBLIP: the names of CLIP, but for its positions and its attention.


def _blip(model_type: str, architecture: str) -> Family:
    family = _family(
        model_type,
        architecture,
        tower_settings(
            same("intermediate_size", "mlp_width"),
            named("hidden_act", "activation", ACTIVATIONS, "gelu"),
            same("qkv_bias", "qkv_bias", True),
            _CLASS_POOLED,
            fixed(pool_norm=True, feature_tokens="all"),
            image_size=224,
            patch_size=14,
            eps=1e-6,
        ),
        [
            _TOWER_PATCHES,
            *_TOWER_ROWS,
            *fused(f"{CLIP_ATTENTION}.qkv", qkv("{layer}/attention"), "D H K -> (+H K) D", "H K -> (+H K)"),
            *from_heads(f"{CLIP_ATTENTION}.projection", "{layer}/attention/out"),
            Row("{base}embeddings.class_embedding", "class_token", "1 D -> 1 1 D"),
            Row("{base}embeddings.position_embedding", ("class_position", "position_embedding"), "P D -> 1 +P D"),
        ],
    )
    sizes = {"hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 39, "num_attention_heads": 16}
    return dataclasses.replace(family, defaults=sizes, not_exported=("remat",))


blip_2_vision = _blip("blip_2_vision_model", "Blip2VisionModel")
instructblip_vision = _blip("instructblip_vision_model", "InstructBlipVisionModel")

VISION = (
    *(vit, dinov2, dinov2_with_registers, clip_vision, siglip_vision, siglip2_vision),
    *(blip_2_vision, instructblip_vision),
)
