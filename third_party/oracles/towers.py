"""Image and text towers side by side, and text towers alone: CLIP, SigLIP, SigLIP-2."""

from __future__ import annotations

import math

import numpy as np

from third_party.oracles.calls import Arrays, Settings
from third_party.oracles.rows import PAD, patches, pictures, token_rows, without
from third_party.oracles.variants import HIDDEN, Call, Variant

END = 60  # CLIP takes a text's features at this token; the highest, since older checkpoints look for that
VOCABULARY = {"vocab_size": 61, "pad_token_id": PAD, "bos_token_id": 1}


def _texts(random: np.random.Generator, *lengths: int) -> Arrays:
    return without(token_rows(random, [length - 1 for length in lengths], end=[END]), "position_ids")


def _text_calls(random: np.random.Generator, settings: Settings) -> list[Call]:
    """Texts without padding and with; shorter ones than there are positions."""
    longest = settings["max_position_embeddings"]
    padded = _texts(random, longest, longest - 5, longest - 2, 3)
    return [
        Call("whole", _texts(random, *(longest,) * 4), kw=HIDDEN),
        Call("padded", padded, kw=HIDDEN),
        Call("unmasked", without(padded, "attention_mask"), kw=HIDDEN),
        Call("short", _texts(random, 5, 5), kw=HIDDEN),
    ]


def _calls(random: np.random.Generator, settings: Settings) -> list[Call]:
    """Three images and four texts, without padding and with; each tower alone; images of another size."""
    size, patch = settings["vision_config"]["image_size"], settings["vision_config"]["patch_size"]
    longest = settings["text_config"]["max_position_embeddings"]
    images = {"pixel_values": pictures(random, 3, 3, size, size)}
    whole = _texts(random, *(longest,) * 4)
    padded = _texts(random, longest, longest - 5, longest - 2, 3)
    other = {"pixel_values": pictures(random, 2, 3, size + patch, 2 * patch)}
    return [
        Call("whole", whole | images, kw=HIDDEN),
        Call("padded", padded | images, kw=HIDDEN),
        Call("unmasked", without(padded, "attention_mask") | images, kw=HIDDEN),
        Call("text", padded, "get_text_features"),
        Call("image", images, "get_image_features"),
        Call("resized", other, "get_image_features", {"interpolate_pos_encoding": True}),
    ]


def _patch_calls(random: np.random.Generator, settings: Settings) -> list[Call]:
    """The same of images that are given as patches; images of several sizes, with padding, in one call."""
    vision = settings["vision_config"]
    side, patch = math.isqrt(vision["num_patches"]), vision["patch_size"]
    longest = settings["text_config"]["max_position_embeddings"]
    images = patches(random, [(side, side)] * 3, patch)
    whole = _texts(random, *(longest,) * 4)
    padded = _texts(random, longest, longest - 5, longest - 2, 3)
    several = patches(random, [(side + 2, side - 1), (side, side), (2, 3)], patch, padding=2)
    return [
        Call("whole", whole | images, kw=HIDDEN),
        Call("padded", padded | several, kw=HIDDEN),
        Call("unmasked", without(padded, "attention_mask") | images, kw=HIDDEN),
        Call("text", padded, "get_text_features"),
        Call("image", images, "get_image_features"),
        Call("resized", patches(random, [(side + 1, 2)] * 2, patch), "get_image_features"),
    ]


def _tower(width: int, heads: int, mlp: int, layers: int, **more) -> dict:
    sizes = {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": layers, "intermediate_size": mlp}
    return {**sizes, **more}


_SETTINGS = {
    "clip": (
        {
            "text_config": _tower(35, 5, 22, 2, max_position_embeddings=17, eos_token_id=END, **VOCABULARY),
            "vision_config": _tower(42, 7, 30, 3, image_size=21, patch_size=7),
            "projection_dim": 27,
        },
        {
            "text_config": _tower(36, 3, 50, 3, max_position_embeddings=13, eos_token_id=2, **VOCABULARY)
            | {"hidden_act": "gelu"},
            "vision_config": _tower(30, 5, 46, 2, image_size=20, patch_size=4, hidden_act="gelu"),
            "projection_dim": 18,
        },
    ),
    "siglip": (
        {
            "text_config": _tower(35, 5, 22, 2, max_position_embeddings=17, eos_token_id=END, **VOCABULARY),
            "vision_config": _tower(35, 7, 30, 3, image_size=22, patch_size=7),
        },
        {
            "text_config": _tower(36, 3, 50, 3, max_position_embeddings=13, eos_token_id=END, **VOCABULARY)
            | {"projection_size": 30},
            "vision_config": _tower(30, 5, 46, 2, image_size=20, patch_size=4, hidden_act="gelu"),
        },
    ),
    "siglip2": (
        {
            "text_config": _tower(35, 5, 22, 2, max_position_embeddings=17, eos_token_id=END, **VOCABULARY),
            "vision_config": _tower(35, 7, 30, 3, num_patches=9, patch_size=3),
        },
        {
            "text_config": _tower(36, 3, 50, 3, max_position_embeddings=13, eos_token_id=END, **VOCABULARY)
            | {"projection_size": 30},
            "vision_config": _tower(30, 5, 46, 2, num_patches=25, patch_size=4, hidden_act="gelu"),
        },
    ),
}
_CLASSES = {
    "clip": ("CLIPModel", _calls),
    "siglip": ("SiglipModel", _calls),
    "siglip2": ("Siglip2Model", _patch_calls),
}
_TEXTS = {
    "clip_text_model": (
        ("CLIPTextModel", {}, "pooler_output"),
        ("CLIPTextModelWithProjection", {"projection_dim": 27}, "text_embeds"),
    ),
    "siglip_text_model": (
        ("SiglipTextModel", {}, "pooler_output"),
        ("SiglipTextModel", {}, "last_hidden_state"),
    ),
    "siglip2_text_model": (
        ("Siglip2TextModel", {}, "pooler_output"),
        ("Siglip2TextModel", {}, "last_hidden_state"),
    ),
}
FAMILIES = {
    **{
        family: tuple(Variant(class_name, settings, calls, "whole/logits_per_image") for settings in _SETTINGS[family])
        for family, (class_name, calls) in _CLASSES.items()
    },
    **{
        family: tuple(
            Variant(class_name, pair["text_config"] | more, _text_calls, f"whole/{grads_of}")
            for pair, (class_name, more, grads_of) in zip(
                _SETTINGS[family.removesuffix("_text_model")], rows, strict=True
            )
        )
        for family, rows in _TEXTS.items()
    },
}
