"""Llama 3.2 Vision (Mllama) of transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.core.errors import InputError
from mmjax.interop.families.decoder_settings import (
    canonical,
    head_width,
    headless,
    key_value_heads,
    rope,
    sizes,
    token_ids,
)
from mmjax.interop.families.rows import ACTIVATIONS, PATCHES, attention, linear, norm
from mmjax.interop.families.vision import tower_settings
from mmjax.interop.family import Family, Part, Place, Row, token_inputs
from mmjax.interop.settings import Setting, Tree, fixed, named, only, same, within, written
from mmjax.models.decoders.decoder import block_names, plan_depth
from mmjax.models.encoders.tiled_vit import TiledViT, TiledViTConfig
from mmjax.models.mllama import Mllama, MllamaConfig

# Sizes that the reference takes where config.json does not say.
_TEXT = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14_336,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
}
_VISION = {
    "hidden_size": 1280,
    "num_hidden_layers": 32,
    "num_global_layers": 8,
    "attention_heads": 16,
    "intermediate_size": 5120,
    "image_size": 448,
    "patch_size": 14,
    "max_num_tiles": 4,
    "intermediate_layers_indices": [3, 7, 15, 23, 30],
    "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
}
# Rows that the embeddings have beyond vocab_size; the image token is the first of them.
_EXTRA_EMBEDDINGS = 8


# ---- The picture encoder.


def _taps() -> Setting:
    """intermediate_layers_indices, and vision_output_dim, which follows from it."""

    def read(outside: Tree) -> dict[str, Any]:
        taps = outside.get("intermediate_layers_indices") or _VISION["intermediate_layers_indices"]
        depth, width = outside["num_hidden_layers"], outside["hidden_size"] * (1 + len(taps))
        if outside.get("vision_output_dim", width) != width:
            raise InputError(
                f"config.json has vision_output_dim={outside['vision_output_dim']}, but {len(taps)} "
                f"intermediate_layers_indices and the last layer are {width} wide"
            )
        return {"taps": tuple(tap % depth for tap in taps)}

    def write(config: TiledViTConfig) -> dict[str, Any]:
        return {"intermediate_layers_indices": list(config.taps), "vision_output_dim": config.features}

    return Setting(read, write)


def _aspect_ratios() -> Setting:
    def read(outside: Tree) -> dict[str, Any]:
        ratios = outside.get("supported_aspect_ratios") or _VISION["supported_aspect_ratios"]
        return {"aspect_ratios": tuple(map(tuple, ratios))}

    return Setting(read, lambda config: {"supported_aspect_ratios": [list(ratio) for ratio in config.aspect_ratios]})


def _transformer(outside: str, inside: str) -> list[Row]:
    outside = f"{{base}}{outside}.layers.{inside}"
    return [
        *norm(f"{outside}.input_layernorm", f"{inside}/attention_norm"),
        *norm(f"{outside}.post_attention_layernorm", f"{inside}/mlp_norm"),
        *attention(f"{outside}.self_attn", f"{inside}/attention", "q_proj", "k_proj", "v_proj", "o_proj"),
        *linear(f"{outside}.mlp.fc1", f"{inside}/mlp/up"),
        *linear(f"{outside}.mlp.fc2", f"{inside}/mlp/down"),
        Row(f"{outside}.gate_attn", f"{inside}/attention_gate", " -> 1"),
        Row(f"{outside}.gate_ffn", f"{inside}/mlp_gate", " -> 1"),
    ]


def _tile_embedding(outside: str, when: str) -> list[Row]:
    return [
        Row(f"{{base}}{outside}.embedding.weight", f"tile_embedding_{when}", "A M D -> A (M D)"),
        Row(f"{{base}}{outside}.gate", f"tile_gate_{when}", " -> 1"),
    ]


def _vision_places(config: TiledViTConfig) -> dict[str, dict[int, Place]]:
    return {
        "layer": {layer: Place("layers", layer) for layer in range(config.layers)},
        "global": {layer: Place("global_layers", layer) for layer in range(config.global_layers)},
    }


def _vision_inputs(config: TiledViTConfig, *leading: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    tiles = (*leading, 1, config.tiles)
    return (
        jax.ShapeDtypeStruct((*tiles, config.image_size, config.image_size, 3), jnp.float32),
        jax.ShapeDtypeStruct(tiles, jnp.bool_),
        jax.ShapeDtypeStruct(tiles[:-1], jnp.int32),
    )


mllama_vision = Family(
    "mllama_vision_model",
    "MllamaVisionModel",
    TiledViTConfig,
    tower_settings(
        same("num_global_layers", "global_layers"),
        same("intermediate_size", "mlp_width"),
        same("max_num_tiles", "tiles"),
        named("hidden_act", "activation", ACTIVATIONS, "gelu"),
        _aspect_ratios(),
        _taps(),
        image_size=_VISION["image_size"],
        patch_size=_VISION["patch_size"],
        eps=1e-5,
        heads="attention_heads",
        norm_eps="norm_eps",
    ),
    (
        Row("{base}class_embedding", "class_token", "1 D -> D"),
        Row("{base}patch_embedding.weight", "patch/kernel", PATCHES),
        Row("{base}gated_positional_embedding.embedding", "position_embedding"),
        Row("{base}gated_positional_embedding.gate", "position_gate", " -> 1"),
        Row(
            "{base}gated_positional_embedding.tile_embedding.weight",
            "tile_position_embedding",
            "A M P D -> A (M P D)",
        ),
        *_tile_embedding("pre_tile_positional_embedding", "before"),
        *_tile_embedding("post_tile_positional_embedding", "after"),
        *norm("{base}layernorm_pre", "embedding_norm"),
        *norm("{base}layernorm_post", "final_norm"),
        *_transformer("transformer", "{layer}"),
        *_transformer("global_transformer", "{global}"),
    ),
    _vision_places,
    TiledViT,
    _vision_inputs,
    defaults=_VISION,
)


# ---- The text: settings of text_config, tensors of both kinds of layer.


def _in_text(settings: Sequence[Setting]) -> tuple[Setting, ...]:
    """Settings whose keys are those of text_config."""

    def lifted(setting: Setting) -> Setting:
        return Setting(
            lambda outside: setting.read({**_TEXT, **(outside.get("text_config") or {})}),
            lambda config: {f"text_config.{key}": value for key, value in setting.write(config).items()},
        )

    return tuple(map(lifted, settings))


def _cross_slots(crossing: Sequence[int]) -> tuple[int, ...]:
    """Before which self-attention layers those cross-attention layers lie that have these numbers among all."""
    return tuple(layer - number for number, layer in enumerate(sorted(crossing)))


def _regular(slots: tuple[int, ...], layers: int) -> dict[str, Any]:
    """The stride and the offset of `slots`, or, where they have none, themselves."""
    every = slots[1] - slots[0] if len(slots) > 1 else layers
    if slots and slots[0] < every and slots == tuple(range(slots[0], layers, every)):
        return {"every": every, "offset": slots[0], "before": None}
    return {"every": 1, "offset": 0, "before": slots}


def _depth() -> Setting:
    """num_hidden_layers and cross_attention_layers, whose blocks have the sizes of all others."""

    def read(text: Tree) -> dict[str, Any]:
        crossing = text["cross_attention_layers"] or ()
        layers = text["num_hidden_layers"] - len(crossing)
        if len(set(crossing)) != len(crossing) or not all(0 <= c < text["num_hidden_layers"] for c in crossing):
            raise InputError(
                f"config.json has cross_attention_layers={list(crossing)}, which are not numbers of different layers "
                f"among {text['num_hidden_layers']}"
            )
        heads = {
            "heads": text["num_attention_heads"],
            "head_width": text["hidden_size"] // text["num_attention_heads"],
            "kv_heads": text["num_key_value_heads"],
            "qk_norm": "head",
            "norm_eps": text["rms_norm_eps"],
        }
        cross = {
            "attention": heads,
            "mlp_width": text["intermediate_size"],
            "activation": named("hidden_act", "it", ACTIVATIONS, "silu").read(text)["it"],
            "norm_eps": text["rms_norm_eps"],
        }
        return {"decoder": {"layers": layers}, "cross": cross | _regular(_cross_slots(crossing), layers)}

    def write(config: MllamaConfig) -> dict[str, Any]:
        slots = config.cross.slots(config.decoder.layers)
        return {
            "num_hidden_layers": config.decoder.layers + len(slots),
            "cross_attention_layers": [slot + number for number, slot in enumerate(sorted(slots))],
        }

    return Setting(read, write)


_DECODER = within(
    "decoder",
    (
        *sizes(),
        same("rms_norm_eps", "norm_eps"),
        key_value_heads(),
        head_width(written=False),
        named("hidden_act", "activation", ACTIVATIONS, "silu"),
        rope(base_key="rope_theta"),
        only("tie_word_embeddings", False),
        token_ids(eos_token_id=128_001, pad_token_id=128_004),
        # A first token cannot be null in this layout.
        written(lambda config: {"bos_token_id": 0} if config.vocab_size <= 128_000 else {}),
        fixed(tied_embeddings=False, extra_embeddings=_EXTRA_EMBEDDINGS),
    ),
)
_CROSS = fixed(
    cross={"norm": "rms", "mlp_gated": True, "mlp_skips_unseen": True, "unseen_attends_all": True},
)


def _without_head() -> Setting:
    """Without a head, the tokens that are read and never written are rows of the embeddings like all others."""

    def read(outside: Tree) -> dict[str, Any]:
        if not headless(outside):
            return {}
        words = (outside.get("text_config") or {}).get("vocab_size", _TEXT["vocab_size"])
        fields = {"vocab_size": words + _EXTRA_EMBEDDINGS, "extra_embeddings": 0, "tied_embeddings": True}
        return {"decoder": fields}

    return Setting(read, lambda config: {})


def _text_layer(inside: str) -> list[Row]:
    outside = f"{{base}}layers.{inside}"
    return [
        *norm(f"{outside}.input_layernorm", f"{inside}/attention_norm"),
        *norm(f"{outside}.post_attention_layernorm", f"{inside}/mlp_norm"),
        *linear(f"{outside}.mlp.up_proj", f"{inside}/mlp/up"),
        *linear(f"{outside}.mlp.gate_proj", f"{inside}/mlp/gate"),
        *linear(f"{outside}.mlp.down_proj", f"{inside}/mlp/down"),
    ]


_HEADS = ("q_proj", "k_proj", "v_proj", "o_proj")
_CROSS_LAYER = "{base}layers.{cross}"
_TEXT_ROWS = [
    Row("{base}embed_tokens.weight", "decoder/embedding"),
    Row("{head}lm_head.weight", "decoder/unembedding"),
    *norm("{base}norm", "decoder/final_norm"),
    *_text_layer("{layer}"),
    *attention("{base}layers.{layer}.self_attn", "{layer}/attention", *_HEADS),
    *_text_layer("{cross}"),
    *attention(f"{_CROSS_LAYER}.cross_attn", "{cross}/attention", *_HEADS),
    *norm(f"{_CROSS_LAYER}.cross_attn.q_norm", "{cross}/attention/query_norm"),
    *norm(f"{_CROSS_LAYER}.cross_attn.k_norm", "{cross}/attention/key_norm"),
    Row(f"{_CROSS_LAYER}.cross_attn_attn_gate", "{cross}/attention_gate", " -> 1"),
    Row(f"{_CROSS_LAYER}.cross_attn_mlp_gate", "{cross}/mlp_gate", " -> 1"),
]


def _places(config: MllamaConfig) -> dict[str, dict[int, Place]]:
    """Both kinds of layer are numbered together outside."""
    plan = plan_depth(config.decoder, config.cross)
    blocks = [
        Place(f"decoder/layers/{name}", block)
        for block in range(plan.superblocks)
        for name in block_names(config.cross, plan.layers_per_superblock)
    ]
    if plan.tail_layers:
        blocks += [Place(f"decoder/tail/{name}") for name in block_names(config.cross, plan.tail_layers)]
    crossing = {number for number, place in enumerate(blocks) if "/cross_" in place.prefix}
    return {
        "layer": {number: place for number, place in enumerate(blocks) if number not in crossing},
        "cross": {number: place for number, place in enumerate(blocks) if number in crossing},
    }


def _canonical(config: MllamaConfig) -> MllamaConfig:
    """How the blocks are strided, and what is derived, does not matter."""
    heads = dataclasses.replace(config.cross.attention, kv_heads=config.cross.attention.groups)
    slots = config.cross.slots(config.decoder.layers)
    cross = dataclasses.replace(config.cross, attention=heads, every=1, offset=0, before=slots, gate_init=0.0)
    decoder = dataclasses.replace(canonical(config.decoder), remat="none", embedding_init=0.02)
    return dataclasses.replace(config, decoder=decoder, cross=cross)


mllama = Family(
    "mllama",
    "MllamaForConditionalGeneration",
    MllamaConfig,
    (
        *_in_text((*_DECODER, _depth(), written(lambda config: {"model_type": "mllama_text_model"}))),
        _CROSS,
        _without_head(),
        same("image_token_index", "image_token", 128_256),
    ),
    (*_TEXT_ROWS, *linear("{connector}", "media_projection")),
    _places,
    Mllama,
    lambda config: (*_vision_inputs(config.vision, 1), *token_inputs(4)),
    parts=(Part("vision", "vision_config", (mllama_vision,)),),
    spellings=(
        {
            "base": "language_model.model.",
            "head": "language_model.",
            "vision.base": "vision_model.",
            "connector": "multi_modal_projector",
        },
        {
            "base": "model.language_model.",
            "vision.base": "model.vision_model.",
            "connector": "model.multi_modal_projector",
        },
    ),
    ignored=(r".*rotary_emb\.inv_freq",),
    canonical=_canonical,
    writes=True,
)
