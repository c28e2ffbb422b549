"""Models of transformers whose pictures stand in the text: LLaVA, PaliGemma, Gemma-3."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.core.errors import InputError
from mmjax.interop.families.decoder_settings import tied_together
from mmjax.interop.families.decoders import ONE_WAY, gemma, gemma2, gemma3, gpt2, llama, mistral, qwen2, qwen3
from mmjax.interop.families.rows import ACTIVATIONS, linear
from mmjax.interop.families.vision import clip_vision, siglip_vision
from mmjax.interop.family import Family, Part, Place, Row, Spelling, token_inputs
from mmjax.interop.settings import Setting, Tree, fixed, lookup, named, same, within
from mmjax.models.inline import InlineConfig, InlineModel


def _abstract_inputs(config: InlineConfig) -> tuple:
    side = config.vision.image_size
    return (
        jax.ShapeDtypeStruct((1, 1, side, side, 3), jnp.float32),
        *token_inputs(),
    )


def inline_family(
    model_type: str,
    architecture: str,
    vision: Part,
    decoder: Part,
    settings: Sequence[Setting],
    rows: Sequence[Row],
    spellings: Sequence[Spelling],
    places: Callable[[InlineConfig], Mapping[str, Mapping[int, Place]]] = lambda config: {},
    **more: Any,
) -> Family:
    """A family of `InlineModel`."""
    return Family(
        model_type,
        architecture,
        InlineConfig,
        tuple(settings),
        tuple(rows),
        places,
        InlineModel,
        _abstract_inputs,
        parts=(vision, decoder),
        spellings=tuple(spellings),
        not_exported=("image_mean", "image_std"),
        writes=True,
        **more,
    )


def spellings(vision: str, connector: str) -> tuple[dict[str, str], ...]:
    """How tensors are named in files: as transformers 5 writes them, as it did before, and as its modules are named."""
    outer = {"decoder.base": "language_model.model.", "decoder.head": "language_model.", "connector": f"{connector}."}
    inner = {"decoder.base": "model.language_model.", "decoder.head": "", "connector": f"model.{connector}."}
    towers = (f"{vision}.", f"{vision}.vision_model.")
    return (
        *({**outer, "vision.base": tower} for tower in towers),
        *({**inner, "vision.base": f"model.{tower}"} for tower in towers),
    )


def image_token(key: str, default: int) -> Setting:
    """The token in whose places pictures stand; newer configs call it image_token_id."""

    def read(outside: Tree) -> dict[str, Any]:
        other = "image_token_id" if key == "image_token_index" else "image_token_index"
        return {"image_token": outside.get(key, outside.get(other, default))}

    return Setting(read, lambda config: {key: config.image_token})


def feature_layers() -> Setting:
    """vision_feature_layer and vision_feature_select_strategy: which hidden states, with the class token or without.

    They are counted from the embeddings, and are not normalised: the last one is layer L here, not -1.
    """
    tokens = {"default": "patches", "full": "all"}

    def read(outside: Tree) -> dict[str, Any]:
        depth = lookup(outside, "vision_config.num_hidden_layers", 24)
        given = outside.get("vision_feature_layer", -2)
        listed = [depth if layer == -1 else layer for layer in (given if isinstance(given, list) else [given])]
        strategy = outside.get("vision_feature_select_strategy", "default")
        if strategy not in tokens:
            raise InputError(
                f"config.json has vision_feature_select_strategy={strategy!r}; known are {', '.join(tokens)}"
            )
        layers = tuple(listed) if isinstance(given, list) else listed[0]
        return {"vision": {"feature_layer": layers, "feature_tokens": tokens[strategy]}}

    def write(config: InlineConfig) -> dict[str, Any]:
        layers = [-1 if layer == config.vision.layers else layer for layer in config.vision.feature_layers]
        strategy = next(name for name, chosen in tokens.items() if chosen == config.vision.feature_tokens)
        one = isinstance(config.vision.feature_layer, int)
        return {
            "vision_feature_layer": layers[0] if one else layers,
            "vision_feature_select_strategy": strategy,
        }

    return Setting(read, write)


# What configs of language models call their width.
TEXT_WIDTHS = ("hidden_size", "n_embd", "d_model")


def text_width(default: int, *, hidden: bool = False) -> Setting:
    """The connector ends in vectors as wide as the text's (and has a layer of that width where `hidden`)."""

    def read(outside: Tree) -> dict[str, Any]:
        text = outside.get("text_config") or {}
        width = next((text[key] for key in TEXT_WIDTHS if text.get(key)), default)
        return {"connector": {"width": width, **({"hidden": width} if hidden else {})}}

    return Setting(read, lambda config: {})


LANGUAGE = (llama, mistral, qwen2, qwen3, gemma, gemma2, gpt2)
CLIP_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}

llava = inline_family(
    "llava",
    "LlavaForConditionalGeneration",
    Part("vision", "vision_config", (clip_vision, siglip_vision), CLIP_LARGE),
    Part("decoder", "text_config", LANGUAGE),
    (
        image_token("image_token_index", 32_000),
        tied_together(False),
        feature_layers(),
        text_width(4096, hidden=True),
        *within(
            "connector",
            (
                named("projector_hidden_act", "activation", ACTIVATIONS, "gelu"),
                same("multimodal_projector_bias", "bias", True),
            ),
        ),
    ),
    [*linear("{connector}linear_1", "connector/up"), *linear("{connector}linear_2", "connector/out")],
    spellings("vision_tower", "multi_modal_projector"),
)


def _projection_width() -> Setting:
    """projection_dim and hidden_size, which are the text's width."""
    return Setting(
        text_width(2048).read,
        lambda config: {"projection_dim": config.decoder.width, "hidden_size": config.decoder.width},
    )


def _two_way(family: Family) -> Family:
    """PaliGemma says of its text that it attends both ways, and means the mask that it makes for the prefix itself."""
    return dataclasses.replace(family, settings=tuple(s for s in family.settings if s is not ONE_WAY))


paligemma = inline_family(
    "paligemma",
    "PaliGemmaForConditionalGeneration",
    Part("vision", "vision_config", (siglip_vision,)),
    Part("decoder", "text_config", (_two_way(gemma), _two_way(gemma2))),
    (
        image_token("image_token_index", 256_000),
        tied_together(True),
        _projection_width(),
        fixed(sees="prefix"),
    ),
    linear("{connector}linear", "connector/out"),
    spellings("vision_tower", "multi_modal_projector"),
)


def _tokens_per_image() -> Setting:
    """mm_tokens_per_image: how many vectors the patches of a picture are averaged to."""

    def read(outside: Tree) -> dict[str, Any]:
        vision = {**siglip_vision.defaults, **(outside.get("vision_config") or {})}
        tokens = outside.get("mm_tokens_per_image", 256)
        side, patches = math.isqrt(tokens), vision.get("image_size", 224) // vision.get("patch_size", 16)
        if side**2 != tokens or patches % side:
            raise InputError(
                f"config.json has mm_tokens_per_image={tokens}; it must be a square whose side divides {patches}, the "
                "patches along a side of a picture"
            )
        return {"connector": {"pool": patches // side, "norm_eps": vision.get("layer_norm_eps", 1e-6)}}

    return Setting(read, lambda config: {"mm_tokens_per_image": (config.vision.grid // config.connector.pool) ** 2})


gemma3_vision = inline_family(
    "gemma3",
    "Gemma3ForConditionalGeneration",
    Part("vision", "vision_config", (siglip_vision,)),
    Part("decoder", "text_config", (gemma3,)),
    (
        image_token("image_token_index", 262_144),
        tied_together(True),
        text_width(2304),
        _tokens_per_image(),
        fixed(
            sees="image",
            decoder={"window_cuts_blocks": True},
            connector={"bias": False, "norm": True, "norm_offset": 1.0},
        ),
    ),
    [
        Row("{connector}mm_input_projection_weight", "connector/out/kernel"),
        Row("{connector}mm_soft_emb_norm.weight", "connector/norm/scale"),
    ],
    spellings("vision_tower", "multi_modal_projector"),
)

INLINE = (llava, paligemma, gemma3_vision)
