"""Models whose images stand in the text as soft tokens: LLaVA, PaliGemma, BLIP-2 and their like."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from third_party.oracles.calls import Arrays, Layout, Settings, image_text_calls
from third_party.oracles.decoders import GEMMA3_ROPE, VOCABULARY
from third_party.oracles.rows import pictures, token_rows
from third_party.oracles.variants import Call, Variant

IMAGE = 57


def _patches(settings: Settings) -> int:
    vision = settings["vision_config"]
    return (vision["image_size"] // vision["patch_size"]) ** 2


def _flat_pixels(random: np.random.Generator, counts: Sequence[int], settings: Settings) -> Arrays:
    size = settings["vision_config"]["image_size"]
    return {"pixel_values": pictures(random, sum(counts), 3, size, size)}


# LLaVA: what the chosen layers of the vision tower give for each patch ("full": for the class token too).
def _llava_span(settings: Settings, number: int) -> list[int]:
    has_class = settings["vision_config"]["model_type"] == "clip_vision_model"
    dropped = settings.get("vision_feature_select_strategy", "default") == "default"
    return [IMAGE] * (_patches(settings) + has_class - dropped)


LLAVA = Layout(span=_llava_span, pixels=_flat_pixels, features="get_image_features")


# PaliGemma: the tokens of type 0 (images and question) see each other both ways, those of type 1 what came before.
def _prefix(random: np.random.Generator, rows: Arrays, counts: Sequence[int], settings: Settings) -> Arrays:
    length = rows["input_ids"].shape[1]
    last = [max(np.flatnonzero(row == IMAGE), default=-1) for row in rows["input_ids"]]
    types = np.arange(length)[None] > np.array(last)[:, None] + 2
    return {"token_type_ids": (types * rows["attention_mask"]).astype(np.int64)}


PALIGEMMA = Layout(
    span=lambda settings, number: [IMAGE] * _patches(settings),
    pixels=_flat_pixels,
    extra=_prefix,
    first_position=1,
    features="get_image_features",
)


def _paligemma_calls(random: np.random.Generator, settings: Settings) -> list[Call]:
    """A prompt to go on from is prefix throughout."""
    calls = image_text_calls(PALIGEMMA, random, settings)
    return [
        dataclasses.replace(call, arrays={**call.arrays, "token_type_ids": np.zeros_like(call.arrays["input_ids"])})
        if call.fn == "generate"
        else call
        for call in calls
    ]


# BLIP-2: one image a row, as the outputs of a fixed number of queries. InstructBLIP's queries read the text too.
def _instruction(random: np.random.Generator, rows: Arrays, counts: Sequence[int], settings: Settings) -> Arrays:
    is_whole = rows["attention_mask"].all()
    question = token_rows(random, (6, 6, 6) if is_whole else (6, 4, 5))
    return {"qformer_input_ids": question["input_ids"], "qformer_attention_mask": question["attention_mask"]}


BLIP = Layout(
    span=lambda settings, number: [IMAGE] * settings["num_query_tokens"],
    pixels=_flat_pixels,
    counts=((1, 1, 1),) * 4,
    first_position=None,
)
INSTRUCT = dataclasses.replace(BLIP, extra=_instruction)


# LLaVA-NeXT: a small version of the image, then its tiles as one picture without the borders that made it fit, with a
# token at the end of each line. Height and width of each image, and those of the tiles that fit it best.
NEXT_SIZES = (((11, 27), (14, 28)), ((40, 18), (28, 14)), ((25, 30), (28, 28)))


def _next_span(settings: Settings, number: int) -> list[int]:
    (height, width), (full_height, full_width) = NEXT_SIZES[number % len(NEXT_SIZES)]
    patch = settings["vision_config"]["patch_size"]
    rows, columns = full_height // patch, full_width // patch
    if width * rows > height * columns:
        rows -= (rows - height * columns // width) // 2 * 2
    else:
        columns -= (columns - width * rows // height) // 2 * 2
    return [IMAGE] * (_patches(settings) + rows * (columns + 1))


def _next_pixels(random: np.random.Generator, counts: Sequence[int], settings: Settings) -> Arrays:
    size = settings["vision_config"]["image_size"]
    own = [NEXT_SIZES[number % len(NEXT_SIZES)] for number in range(sum(counts))]
    tiles = [1 + height * width // size**2 for _, (height, width) in own]
    pixels = pictures(random, sum(counts), max(tiles), 3, size, size)
    for number, count in enumerate(tiles):
        pixels[number, count:] = 0
    return {"pixel_values": pixels, "image_sizes": np.array([image for image, _ in own])}


NEXT = Layout(span=_next_span, pixels=_next_pixels, features="get_image_features")


# Gemma 3: the tokens of an image see each other both ways.
BEGIN, END = 58, 59


def _image_types(random: np.random.Generator, rows: Arrays, counts: Sequence[int], settings: Settings) -> Arrays:
    return {"token_type_ids": (rows["input_ids"] == IMAGE).astype(np.int64)}


GEMMA3 = Layout(
    span=lambda settings, number: [BEGIN, *[IMAGE] * settings["mm_tokens_per_image"], END],
    pixels=_flat_pixels,
    extra=_image_types,
    features="get_image_features",
)


# Idefics 3 and SmolVLM: tiles of a fixed size, some of them with a border that is masked; rows are filled up with
# black images, which are left out.
def _masked_pixels(random: np.random.Generator, counts: Sequence[int], settings: Settings) -> Arrays:
    size = settings["vision_config"]["image_size"]
    pixels = np.zeros((len(counts), max(counts), 3, size, size), np.float32)
    mask = np.zeros((len(counts), max(counts), size, size), np.int64)
    for row, count in enumerate(counts):
        for number in range(count):
            height, width = (size, size) if (row + number) % 2 else (size - 7, size - 2)
            pixels[row, number, :, :height, :width] = pictures(random, 3, height, width)
            mask[row, number, :height, :width] = 1
    return {"pixel_values": pixels, "pixel_attention_mask": mask}


IDEFICS3 = Layout(
    span=lambda settings, number: [BEGIN, *[IMAGE] * (_patches(settings) // settings["scale_factor"] ** 2), BEGIN],
    pixels=_masked_pixels,
    features="get_image_features",
)


# Qwen2.5-VL: images of any size as one list of patches, two frames deep. How many patches high and wide each is.
GRIDS = ((4, 6), (2, 4), (6, 8))


def _grid_pixels(random: np.random.Generator, counts: Sequence[int], settings: Settings) -> Arrays:
    vision = settings["vision_config"]
    grids = np.array([(1, *GRIDS[number % len(GRIDS)]) for number in range(sum(counts))])
    width = 3 * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    return {"pixel_values": pictures(random, int(grids.prod(1).sum()), width), "image_grid_thw": grids}


def _qwen_types(random: np.random.Generator, rows: Arrays, counts: Sequence[int], settings: Settings) -> Arrays:
    return {"mm_token_type_ids": (rows["input_ids"] == IMAGE).astype(np.int64)}


def _qwen_span(settings: Settings, number: int) -> list[int]:
    height, width = GRIDS[number % len(GRIDS)]
    merged = height * width // settings["vision_config"]["spatial_merge_size"] ** 2
    return [BEGIN, *[IMAGE] * merged, END]


# The positions have three axes; the class works them out from the grids.
QWEN = Layout(
    span=_qwen_span, pixels=_grid_pixels, extra=_qwen_types, first_position=None, features="get_image_features"
)


def _language(model_type: str, width: int, heads: int, mlp: int, layers: int, **more) -> dict:
    sizes = {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": layers}
    return {"model_type": model_type, **VOCABULARY, **sizes, "intermediate_size": mlp, **more}


def _vision(model_type: str, width: int, heads: int, mlp: int, layers: int, image: int, patch: int, **more) -> dict:
    sizes = {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": layers, "intermediate_size": mlp}
    return {"model_type": model_type, **sizes, "image_size": image, "patch_size": patch, **more}


def _opt(width: int, heads: int, mlp: int, layers: int, **more) -> dict:
    sizes = {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": layers, "ffn_dim": mlp}
    places = {"word_embed_proj_dim": width, "max_position_embeddings": 64}
    return {"model_type": "opt", **VOCABULARY, **sizes, **places, **more}


def _qformer(width: int, heads: int, mlp: int, layers: int, cross_every: int) -> dict:
    sizes = {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": layers, "intermediate_size": mlp}
    return {"vocab_size": 61, **sizes, "cross_attention_frequency": cross_every}


def _qwen_vision(width: int, heads: int, mlp: int, layers: int, out: int, **more) -> dict:
    sizes = {
        "hidden_size": width,
        "num_heads": heads,
        "intermediate_size": mlp,
        "depth": layers,
        "out_hidden_size": out,
    }
    return {**sizes, "spatial_merge_size": 2, "temporal_patch_size": 2, **more}


def _sections(*halves: int) -> dict:
    """How many of the rotary pairs turn with time, height and width."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "mrope_section": list(halves)}}


def _idefics3(vision: str) -> tuple[dict, dict]:
    return (
        {
            "vision_config": _vision(vision, 35, 5, 22, 2, 24, 4),
            "text_config": _language("llama", 36, 6, 44, 2, num_key_value_heads=2),
            "image_token_id": IMAGE,
            "scale_factor": 3,
        },
        {
            "vision_config": _vision(vision, 36, 3, 50, 3, 20, 5),
            "text_config": _language("llama", 35, 5, 30, 3, num_key_value_heads=5, head_dim=8),
            "image_token_id": IMAGE,
            "scale_factor": 2,
            "tie_word_embeddings": True,
        },
    )


_QWEN_TOKENS = {"video_token_id": 60, "vision_start_token_id": BEGIN, "vision_end_token_id": END}
_GEMMA3 = {
    "head_dim": 14,
    "num_key_value_heads": 1,
    "sliding_window": 6,
    "query_pre_attn_scalar": 11,
    "sliding_window_pattern": 2,
}
_LINEAR_ROPE = {"head_dim": 10, "rope_parameters": GEMMA3_ROPE}
_GEMMA2 = {
    "head_dim": 14,
    "num_key_value_heads": 2,
    "sliding_window": 64,
    "query_pre_attn_scalar": 11,
    "attn_logit_softcapping": 3.0,
    "final_logit_softcapping": 2.0,
}
_SETTINGS = {
    "llava": (
        {
            "vision_config": _vision("clip_vision_model", 35, 5, 22, 3, 21, 7),
            "text_config": _language("llama", 36, 6, 44, 3, num_key_value_heads=2),
            "image_token_index": IMAGE,
        },
        {
            "vision_config": _vision("clip_vision_model", 36, 3, 50, 4, 20, 10, hidden_act="gelu"),
            "text_config": _language("mistral", 42, 7, 30, 2, num_key_value_heads=1, head_dim=6, sliding_window=64),
            "image_token_index": IMAGE,
            "vision_feature_layer": [1, -2],
            "vision_feature_select_strategy": "full",
            "multimodal_projector_bias": False,
        },
        {
            "vision_config": _vision("siglip_vision_model", 35, 5, 22, 2, 22, 7),
            "text_config": _language("qwen2", 40, 5, 36, 2, num_key_value_heads=5, tie_word_embeddings=True),
            "image_token_index": IMAGE,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
        },
    ),
    "paligemma": (
        {
            "vision_config": _vision("siglip_vision_model", 35, 5, 22, 2, 21, 7, vision_use_head=False),
            "text_config": _language("gemma", 38, 3, 50, 2, num_key_value_heads=1, head_dim=18),
            "image_token_index": IMAGE,
            "projection_dim": 38,
            "hidden_size": 38,
            "vocab_size": 61,
        },
        {
            "vision_config": _vision("siglip_vision_model", 36, 3, 50, 3, 24, 12, vision_use_head=False),
            "text_config": _language("gemma2", 36, 6, 46, 3, **_GEMMA2),
            "image_token_index": IMAGE,
            "projection_dim": 36,
            "hidden_size": 36,
            "vocab_size": 61,
        },
    ),
    "blip_2": (
        {
            "vision_config": _vision("blip_2_vision_model", 35, 5, 22, 2, 21, 7),
            "qformer_config": _qformer(30, 3, 44, 3, 2),
            "text_config": _opt(35, 5, 51, 2),
            "num_query_tokens": 5,
            "image_token_index": IMAGE,
        },
        {
            "vision_config": _vision("blip_2_vision_model", 36, 3, 50, 3, 20, 10, qkv_bias=False),
            "qformer_config": _qformer(28, 7, 36, 2, 1),
            "text_config": _opt(36, 3, 41, 3),
            "num_query_tokens": 3,
            "image_token_index": IMAGE,
        },
    ),
    "instructblip": (
        {
            "vision_config": _vision("instructblip_vision_model", 35, 5, 22, 2, 21, 7),
            "qformer_config": _qformer(30, 3, 44, 3, 2),
            "text_config": _language("llama", 36, 6, 44, 2, num_key_value_heads=2),
            "num_query_tokens": 5,
            "image_token_index": IMAGE,
        },
        {
            "vision_config": _vision("instructblip_vision_model", 36, 3, 50, 3, 20, 10, qkv_bias=False),
            "qformer_config": _qformer(28, 7, 36, 2, 1),
            "text_config": _opt(36, 3, 41, 3),
            "num_query_tokens": 3,
            "image_token_index": IMAGE,
        },
    ),
    "llava_next": (
        {
            "vision_config": _vision("clip_vision_model", 35, 5, 22, 3, 14, 7),
            "text_config": _language("llama", 36, 6, 44, 2, num_key_value_heads=2),
            "image_token_index": IMAGE,
            "image_grid_pinpoints": [[14, 28], [28, 14], [28, 28]],
        },
        {
            "vision_config": _vision("clip_vision_model", 36, 3, 50, 2, 14, 2, hidden_act="gelu"),
            "text_config": _language("mistral", 42, 7, 30, 2, num_key_value_heads=1, head_dim=6),
            "image_token_index": IMAGE,
            "image_grid_pinpoints": [[14, 28], [28, 14], [28, 28]],
            "vision_feature_layer": -1,
        },
    ),
    "gemma3": (
        {
            "vision_config": _vision("siglip_vision_model", 35, 5, 22, 2, 24, 4, vision_use_head=False),
            "text_config": _language("gemma3_text", 36, 6, 46, 4, **_GEMMA3),
            "mm_tokens_per_image": 9,
            "image_token_index": IMAGE,
            "boi_token_index": BEGIN,
            "eoi_token_index": END,
        },
        {
            "vision_config": _vision("siglip_vision_model", 36, 3, 50, 3, 20, 5, vision_use_head=False),
            "text_config": _language("gemma3_text", 35, 5, 30, 2, **_GEMMA3 | _LINEAR_ROPE),
            "mm_tokens_per_image": 4,
            "image_token_index": IMAGE,
            "boi_token_index": BEGIN,
            "eoi_token_index": END,
        },
    ),
    "idefics3": _idefics3("idefics3_vision"),
    "smolvlm": _idefics3("smolvlm_vision"),
    "qwen2_5_vl": (
        {
            "vision_config": _qwen_vision(24, 2, 22, 4, 36, patch_size=4, window_size=16, fullatt_block_indexes=[1, 3]),
            "text_config": _language("qwen2_5_vl_text", 36, 3, 44, 3, num_key_value_heads=1, **_sections(2, 1, 3)),
            "image_token_id": IMAGE,
            **_QWEN_TOKENS,
        },
        {
            "vision_config": _qwen_vision(36, 3, 30, 2, 40, patch_size=6, window_size=24, fullatt_block_indexes=[0]),
            "text_config": _language("qwen2_5_vl_text", 40, 5, 30, 2, num_key_value_heads=5, **_sections(1, 1, 2)),
            "image_token_id": IMAGE,
            "tie_word_embeddings": True,
            **_QWEN_TOKENS,
        },
    ),
}


def _calls(layout: Layout) -> functools.partial:
    return functools.partial(image_text_calls, layout)


# Family -> the class, and its calls.
_CLASSES = {
    "llava": ("LlavaForConditionalGeneration", _calls(LLAVA)),
    "paligemma": ("PaliGemmaForConditionalGeneration", _paligemma_calls),
    "blip_2": ("Blip2ForConditionalGeneration", _calls(BLIP)),
    "instructblip": ("InstructBlipForConditionalGeneration", _calls(INSTRUCT)),
    "llava_next": ("LlavaNextForConditionalGeneration", _calls(NEXT)),
    "gemma3": ("Gemma3ForConditionalGeneration", _calls(GEMMA3)),
    "idefics3": ("Idefics3ForConditionalGeneration", _calls(IDEFICS3)),
    "smolvlm": ("SmolVLMForConditionalGeneration", _calls(IDEFICS3)),
    "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", _calls(QWEN)),
}
FAMILIES = {
    family: tuple(Variant(class_name, settings, calls, "whole/logits") for settings in _SETTINGS[family])
    for family, (class_name, calls) in _CLASSES.items()
}
