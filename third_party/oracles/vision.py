"""Image encoders alone, and an image encoder with a decoder that looks at it (ViT and GPT-2)."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from third_party.oracles.calls import Settings
from third_party.oracles.rows import BOS, EOS, PAD, SPECIAL, patches, pictures, token_rows
from third_party.oracles.variants import GREEDY, HIDDEN, Call, Variant

PATCH = 4
INTERPOLATE = {"interpolate_pos_encoding": True}


@dataclasses.dataclass(frozen=True)
class Other:
    """How images of another size are given: their height and width, and what else to say."""

    height: int
    width: int
    kw: dict = dataclasses.field(default_factory=dict)


def _calls(other: Other, masked: bool, random: np.random.Generator, settings: Settings) -> list[Call]:
    """Three images of the encoder's own size, two of another, and where it can: some of the patches masked."""
    size = settings.get("image_size", 32)
    calls = [
        Call("whole", {"pixel_values": pictures(random, 3, 3, size, size)}, kw=HIDDEN),
        Call("other", {"pixel_values": pictures(random, 2, 3, other.height, other.width)}, kw=HIDDEN | other.kw),
    ]
    if masked:
        mask = random.random((3, (size // PATCH) ** 2)) < 0.3
        arrays = {"pixel_values": pictures(random, 3, 3, size, size), "bool_masked_pos": mask}
        calls.append(Call("masked", arrays, kw=HIDDEN))
    return calls


def _patch_calls(random: np.random.Generator, settings: Settings) -> list[Call]:
    """Images given as patches: of the encoder's own size, of another, and of several in one call, with padding."""
    side = math.isqrt(settings["num_patches"])
    several = [(side - 1, side + 2), (1, 2), (side + 3, 2)]
    return [
        Call("whole", patches(random, [(side, side)] * 3, PATCH), kw=HIDDEN),
        Call("other", patches(random, [(side + 3, side - 2)] * 2, PATCH), kw=HIDDEN),
        Call("padded", patches(random, several, PATCH, padding=3), kw=HIDDEN),
    ]


def _encoder_decoder_calls(random: np.random.Generator, settings: Settings) -> list[Call]:
    size = settings["encoder"]["image_size"]

    def call(name, *lengths):
        rows = token_rows(random, lengths)
        arrays = {"decoder_input_ids": rows["input_ids"], "decoder_attention_mask": rows["attention_mask"]}
        return Call(name, {"pixel_values": pictures(random, 3, 3, size, size), **arrays}, kw=HIDDEN)

    images = {"pixel_values": pictures(random, 3, 3, size, size)}
    return [call("whole", 9, 9, 9), call("right", 13, 9, 4), Call("generate", images, "generate", GREEDY)]


def sizes(width: int, layers: int, heads: int, mlp: int | None, **more) -> dict:
    base = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "patch_size": PATCH}
    return base | ({"intermediate_size": mlp} if mlp else {}) | {"image_size": 20} | more


def _of_patches(*args, **more) -> dict:
    return {name: value for name, value in sizes(*args, **more).items() if name != "image_size"}


def _encoder(class_name: str, settings: dict, grads_of: str, other: Other, masked: bool = False) -> Variant:
    return Variant(
        class_name, settings, functools.partial(_calls, other, masked), f"{'masked' if masked else 'whole'}/{grads_of}"
    )


def _gpt2(width: int, heads: int) -> dict:
    base = {"model_type": "gpt2", "vocab_size": 61, **SPECIAL, "n_positions": 20, "is_decoder": True}
    return {**base, "n_embd": width, "n_layer": 2, "n_head": heads, "add_cross_attention": True}


_START = {"decoder_start_token_id": BOS, "pad_token_id": PAD, "eos_token_id": EOS}
_TABLE = {
    "vit": (
        ("ViTModel", sizes(35, 3, 5, 22, pooler_output_size=13), "pooler_output", Other(12, 28, INTERPOLATE)),
        (
            "ViTForImageClassification",
            sizes(36, 2, 3, 50, hidden_act="gelu_new", num_labels=7),
            "logits",
            Other(28, 12, INTERPOLATE),
        ),
    ),
    "clip_vision_model": (
        ("CLIPVisionModel", sizes(42, 3, 7, 30), "pooler_output", Other(12, 28, INTERPOLATE)),
        (
            "CLIPVisionModelWithProjection",
            sizes(36, 2, 3, 50, projection_dim=11, hidden_act="gelu"),
            "image_embeds",
            Other(24, 36, INTERPOLATE),
        ),
    ),
    "siglip_vision_model": (
        (
            "SiglipVisionModel",
            sizes(35, 3, 5, 22) | {"image_size": 22},
            "pooler_output",
            Other(24, 16, INTERPOLATE),
        ),
        (
            "SiglipVisionModel",
            sizes(36, 2, 3, 50, vision_use_head=False),
            "last_hidden_state",
            Other(12, 28, INTERPOLATE),
        ),
    ),
    "dinov2": (
        ("Dinov2Model", sizes(35, 3, 5, None), "last_hidden_state", Other(24, 16), True),
        (
            "Dinov2Model",
            sizes(36, 2, 3, None, use_swiglu_ffn=True, use_mask_token=False),
            "last_hidden_state",
            Other(32, 16),
        ),
    ),
    "dinov2_with_registers": (
        ("Dinov2WithRegistersModel", sizes(36, 2, 3, None, mlp_ratio=3), "last_hidden_state", Other(12, 28), True),
        (
            "Dinov2WithRegistersModel",
            sizes(35, 3, 5, None, use_swiglu_ffn=True, num_register_tokens=2),
            "last_hidden_state",
            Other(28, 24),
        ),
    ),
    "blip_2_vision_model": (
        ("Blip2VisionModel", sizes(35, 3, 5, 22), "pooler_output", Other(12, 28, INTERPOLATE)),
        (
            "Blip2VisionModel",
            sizes(36, 2, 3, 50, hidden_act="gelu_new", qkv_bias=False),
            "last_hidden_state",
            Other(28, 12, INTERPOLATE),
        ),
    ),
    "instructblip_vision_model": (
        ("InstructBlipVisionModel", sizes(35, 3, 5, 22), "pooler_output", Other(12, 28, INTERPOLATE)),
        (
            "InstructBlipVisionModel",
            sizes(36, 2, 3, 50, hidden_act="gelu_new", qkv_bias=False),
            "last_hidden_state",
            Other(28, 12, INTERPOLATE),
        ),
    ),
    "convnext": (
        (
            "ConvNextModel",
            {"hidden_sizes": [10, 14, 22], "depths": [1, 2, 1], "num_stages": 3, "patch_size": 2},
            "pooler_output",
            Other(28, 36),
        ),
        (
            "ConvNextForImageClassification",
            {"hidden_sizes": [9, 15], "depths": [2, 1], "num_stages": 2, "hidden_act": "relu", "num_labels": 7}
            | {"layer_scale_init_value": 0.0},
            "logits",
            Other(24, 40),
        ),
    ),
}
_PATCHED = (
    (_of_patches(35, 3, 5, 22, num_patches=25), "pooler_output"),
    (_of_patches(36, 2, 3, 50, num_patches=16, vision_use_head=False), "last_hidden_state"),
)
_ENCODER_DECODERS = (
    {"encoder": {"model_type": "vit", **sizes(35, 2, 5, 22)}, "decoder": _gpt2(33, 3), **_START},
    {"encoder": {"model_type": "vit", **sizes(36, 2, 3, 50)}, "decoder": _gpt2(36, 6), **_START},
)
FAMILIES = {
    **{family: tuple(_encoder(*row) for row in rows) for family, rows in _TABLE.items()},
    "siglip2_vision_model": tuple(
        Variant("Siglip2VisionModel", settings, _patch_calls, f"whole/{grads_of}") for settings, grads_of in _PATCHED
    ),
    "vision_encoder_decoder": tuple(
        Variant("VisionEncoderDecoderModel", settings, _encoder_decoder_calls, "whole/logits")
        for settings in _ENCODER_DECODERS
    ),
}
