"""Qwen2.5-VL of transformers: pictures of any size stand in the text, and its positions have three axes."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.core.errors import InputError
from mmjax.interop.families.decoder_settings import tied_together
from mmjax.interop.families.decoders import qwen2_5_vl_text
from mmjax.interop.families.inline import image_token, inline_family
from mmjax.interop.families.rows import ACTIVATIONS, from_heads, fused, linear, norm, qkv
from mmjax.interop.family import Family, Part, Row, decoder_places, token_inputs
from mmjax.interop.settings import Setting, Tree, named, same
from mmjax.models.encoders.window_vit import PackedPatches, WindowViT, WindowViTConfig
from mmjax.models.inline import InlineConfig


def _packed_inputs(config: WindowViTConfig) -> PackedPatches:
    patches = config.merge**2
    numbers = (jax.ShapeDtypeStruct((1, patches), jnp.int32),) * 2
    return PackedPatches(
        jax.ShapeDtypeStruct((1, patches, config.patch_values), jnp.float32),
        *numbers,
        jax.ShapeDtypeStruct((1, patches, 2), jnp.int32),
    )


def _places(config: WindowViTConfig):
    return {"layer": decoder_places(config.layers, config.plan.superblocks, config.plan.layers_per_superblock)}


def _window() -> Setting:
    """window_size, in pixels: what is left over after whole squares of merged patches is not used."""

    def read(outside: Tree) -> dict[str, Any]:
        square = outside["spatial_merge_size"] * outside["patch_size"]
        return {"window": outside["window_size"] // square * outside["spatial_merge_size"]}

    return Setting(read, lambda config: {"window_size": config.window * config.patch_size})


def _full_layers() -> Setting:
    """fullatt_block_indexes, in any order."""

    def read(outside: Tree) -> dict[str, Any]:
        return {"full_layers": tuple(sorted(set(outside["fullatt_block_indexes"])))}

    return Setting(read, lambda config: {"fullatt_block_indexes": list(config.full_layers)})


def _axial_rope() -> Setting:
    """The base of the rotary positions; older configs do not name it, and mean 10000."""

    def read(outside: Tree) -> dict[str, Any]:
        parameters = outside.get("rope_parameters") or {}
        kind = parameters.get("rope_type", "axial")
        if kind not in ("axial", "default"):
            raise InputError(f"config.json has vision_config.rope_parameters.rope_type={kind!r}; known is axial")
        return {"rope_base": float(parameters.get("rope_theta", 10_000.0))}

    return Setting(read, lambda config: {"rope_parameters": {"rope_type": "axial", "rope_theta": config.rope_base}})


_VISION_DEFAULTS = {
    "hidden_size": 3584,
    "num_heads": 16,
    "depth": 32,
    "intermediate_size": 3420,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "window_size": 112,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": [7, 15, 23, 31],
}

qwen2_5_vl_vision = Family(
    "qwen2_5_vl_vision",
    "Qwen2_5_VisionTransformerPretrainedModel",
    WindowViTConfig,
    (
        same("hidden_size", "width"),
        same("num_heads", "heads"),
        same("depth", "layers"),
        same("intermediate_size", "mlp_width"),
        same("patch_size", "patch_size"),
        same("spatial_merge_size", "merge"),
        same("temporal_patch_size", "frames", 2),
        same("in_channels", "channels", 3),
        same("tokens_per_second", "tokens_per_second", 4),
        named("hidden_act", "activation", ACTIVATIONS, "silu"),
        _window(),
        _full_layers(),
        _axial_rope(),
    ),
    (
        Row("{base}patch_embed.proj.weight", "patch/kernel", "C t p q D -> D C t p q"),
        *norm("{base}blocks.{layer}.norm1", "{layer}/attention_norm"),
        *norm("{base}blocks.{layer}.norm2", "{layer}/mlp_norm"),
        *fused("{base}blocks.{layer}.attn.qkv", qkv("{layer}/attention"), "D H K -> (+H K) D", "H K -> (+H K)"),
        *from_heads("{base}blocks.{layer}.attn.proj", "{layer}/attention/out"),
        *linear("{base}blocks.{layer}.mlp.gate_proj", "{layer}/mlp/gate"),
        *linear("{base}blocks.{layer}.mlp.up_proj", "{layer}/mlp/up"),
        *linear("{base}blocks.{layer}.mlp.down_proj", "{layer}/mlp/down"),
    ),
    _places,
    WindowViT,
    lambda config: (_packed_inputs(config),),
    defaults=_VISION_DEFAULTS,
)


def _merger() -> Setting:
    """The maps between encoder and text, whose sizes are those of the encoder and its out_hidden_size."""

    def read(outside: Tree) -> dict[str, Any]:
        vision = {**_VISION_DEFAULTS, **(outside.get("vision_config") or {})}
        joined = vision["spatial_merge_size"] ** 2
        sizes = {"width": vision["out_hidden_size"], "hidden": joined * vision["hidden_size"], "join": joined}
        return {"connector": {**sizes, "norm": True, "norm_eps": 1e-6}}

    return Setting(read, lambda config: {"vision_config.out_hidden_size": config.connector.width})


def _video_token() -> Setting:
    """video_token_id, which the layout cannot leave out."""
    token = same("video_token_id", "video_token", 151_656)
    return Setting(token.read, lambda config: {} if config.video_token is None else token.write(config))


def _abstract_inputs(config: InlineConfig) -> tuple:
    return _packed_inputs(config.vision), *token_inputs()


_RELEASED = {"vision.base": "visual.", "connector": "visual.merger.", "decoder.base": "model."}
_NESTED = {
    "vision.base": "model.visual.",
    "connector": "model.visual.merger.",
    "decoder.base": "model.language_model.",
}
_HEADLESS = {"vision.base": "visual.", "connector": "visual.merger.", "decoder.base": "language_model."}
# The first checkpoints name the whole model's type at the encoder.
_UNNAMED_VISION = dataclasses.replace(qwen2_5_vl_vision, model_type="qwen2_5_vl")

qwen2_5_vl = dataclasses.replace(
    inline_family(
        "qwen2_5_vl",
        "Qwen2_5_VLForConditionalGeneration",
        Part("vision", "vision_config", (qwen2_5_vl_vision, _UNNAMED_VISION)),
        Part("decoder", "text_config", (qwen2_5_vl_text,), mixed=True),
        (
            image_token("image_token_id", 151_655),
            _video_token(),
            tied_together(False, in_text=True),
            _merger(),
        ),
        [
            *norm("{connector}ln_q", "connector/norm"),
            *linear("{connector}mlp.0", "connector/up"),
            *linear("{connector}mlp.2", "connector/out"),
        ],
        (_RELEASED, _NESTED, _HEADLESS),
    ),
    inputs=_abstract_inputs,
)
