"""Models whose text looks at images by cross-attention: IDEFICS, Llama 3.2 Vision."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from third_party.oracles.calls import Arrays, Layout, Settings, image_text_calls, searched
from third_party.oracles.decoders import LLAMA3_ROPE
from third_party.oracles.rows import SPECIAL, pictures
from third_party.oracles.variants import HIDDEN, Call, Variant

# IDEFICS: the images of a row are padded to the most that a row has.
FAKE, IMAGE = 57, 58


def _row_pixels(random: np.random.Generator, counts: Sequence[int], settings: Settings) -> Arrays:
    size = settings["vision_config"]["image_size"]
    return {"pixel_values": pictures(random, len(counts), max(counts), 3, size, size)}


def _last_image(random: np.random.Generator, rows: Arrays, counts: Sequence[int], settings: Settings) -> Arrays:
    """[B T N]: each token looks at the last image at or before it."""
    seen = np.cumsum(rows["input_ids"] == IMAGE, axis=1)
    looks = seen[..., None] == 1 + np.arange(max(counts))
    return {"image_attention_mask": (looks * rows["attention_mask"][..., None]).astype(np.int64)}


IDEFICS = Layout(span=lambda settings, number: (FAKE, IMAGE, FAKE), pixels=_row_pixels, extra=_last_image)


def _idefics_calls(random: np.random.Generator, settings: Settings) -> list[Call]:
    """And rows whose tokens look at all images before them, and a search."""
    calls = image_text_calls(IDEFICS, random, settings)
    whole = dict(calls[0].arrays)
    whole["image_attention_mask"] = np.maximum.accumulate(whole["image_attention_mask"], axis=1)
    return [*calls, Call("all_before", whole, kw=HIDDEN), searched(calls)]


# Llama 3.2 Vision: an image is up to max_num_tiles tiles; the token that stands for it is the first after the words.
TILES = (((1, 2), 2), ((1, 1), 1), ((2, 1), 2), ((1, 3), 3))  # shapes, and how many tiles they have


def _mllama_ratios(counts: Sequence[int], settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """[B N] number of each image's shape (0 where there is no image), and [B N tiles] which tiles it has."""
    vision = settings["vision_config"]
    shapes = [shape for shape in TILES if list(shape[0]) in vision["supported_aspect_ratios"]]
    ratios = np.zeros((len(counts), max(counts)), np.int64)
    tiles = np.zeros((len(counts), max(counts), vision["max_num_tiles"]), np.int64)
    number = 0
    for row, count in enumerate(counts):
        for image in range(count):
            shape, own = shapes[number % len(shapes)]
            ratios[row, image] = 1 + vision["supported_aspect_ratios"].index(list(shape))
            tiles[row, image, :own] = 1
            number += 1
    return ratios, tiles


def _mllama_pixels(random: np.random.Generator, counts: Sequence[int], settings: Settings) -> Arrays:
    size = settings["vision_config"]["image_size"]
    ratios, tiles = _mllama_ratios(counts, settings)
    pixels = pictures(random, *tiles.shape, 3, size, size) * tiles[..., None, None, None].astype(np.float32)
    return {
        "pixel_values": pixels,
        "aspect_ratio_ids": ratios,
        "aspect_ratio_mask": np.maximum(tiles, np.arange(tiles.shape[-1]) == 0),  # so that no row is all masked
    }


def _mllama_mask(random: np.random.Generator, rows: Arrays, counts: Sequence[int], settings: Settings) -> Arrays:
    """[B T N tiles]: each token looks at the tiles of the last image at or before it."""
    _, tiles = _mllama_ratios(counts, settings)
    seen = np.cumsum(rows["input_ids"] == settings["image_token_index"], axis=1)
    looks = (seen[..., None] == 1 + np.arange(max(counts))) & (rows["attention_mask"][..., None] > 0)
    return {"cross_attention_mask": looks[..., None] * tiles[:, None]}


MLLAMA = Layout(
    span=lambda settings, number: [settings["image_token_index"]], pixels=_mllama_pixels, extra=_mllama_mask
)

_IDEFICS_TEXT = {"vocab_size": FAKE, "additional_vocab_size": 2, **SPECIAL}
_MLLAMA_TEXT = {"vocab_size": FAKE, **SPECIAL}
_ALL_RATIOS = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]
_NOTHING_FROZEN = {"freeze_text_layers": False, "freeze_vision_layers": False}
_SETTINGS = {
    "idefics": (
        {
            **_IDEFICS_TEXT,
            **_NOTHING_FROZEN,
            "hidden_size": 36,
            "intermediate_size": 44,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "cross_layer_interval": 2,
            "qk_layer_norms": True,
            "use_resampler": True,
            "vision_config": {
                "embed_dim": 35,
                "num_attention_heads": 5,
                "num_hidden_layers": 2,
                "intermediate_size": 22,
                "image_size": 21,
                "patch_size": 7,
            },
            "perceiver_config": {
                "use_resampler": True,
                "resampler_n_latents": 5,
                "resampler_depth": 2,
                "resampler_n_heads": 3,
                "resampler_head_dim": 8,
                "qk_layer_norms_perceiver": True,
            },
        },
        {
            **_IDEFICS_TEXT,
            **_NOTHING_FROZEN,
            "hidden_size": 40,
            "intermediate_size": 30,
            "num_hidden_layers": 3,
            "num_attention_heads": 5,
            "cross_layer_interval": 1,
            "alpha_type": "vector",
            "tie_word_embeddings": True,
            "vision_config": {
                "embed_dim": 36,
                "num_attention_heads": 3,
                "num_hidden_layers": 3,
                "intermediate_size": 50,
                "image_size": 20,
                "patch_size": 10,
            },
        },
    ),
    "mllama": (
        {
            "vision_config": {
                "hidden_size": 36,
                "num_hidden_layers": 3,
                "num_global_layers": 2,
                "attention_heads": 3,
                "intermediate_size": 22,
                "vision_output_dim": 36 * 3,
                "image_size": 21,
                "patch_size": 7,
                "max_num_tiles": 4,
                "intermediate_layers_indices": [0, 2],
                "supported_aspect_ratios": _ALL_RATIOS,
            },
            "text_config": {
                **_MLLAMA_TEXT,
                "hidden_size": 42,
                "num_hidden_layers": 5,
                "num_attention_heads": 7,
                "num_key_value_heads": 1,
                "intermediate_size": 44,
                "cross_attention_layers": [1, 3],
                "rope_parameters": LLAMA3_ROPE,
            },
            "image_token_index": FAKE,
        },
        {
            "vision_config": {
                "hidden_size": 35,
                "num_hidden_layers": 2,
                "num_global_layers": 1,
                "attention_heads": 5,
                "intermediate_size": 50,
                "vision_output_dim": 35 * 2,
                "image_size": 20,
                "patch_size": 5,
                "max_num_tiles": 2,
                "intermediate_layers_indices": [1],
                "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
            },
            "text_config": {
                **_MLLAMA_TEXT,
                "hidden_size": 40,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "intermediate_size": 30,
                "cross_attention_layers": [1, 2],
            },
            "image_token_index": FAKE,
        },
    ),
}
# Family -> the class, and its calls.
_CLASSES = {
    "idefics": ("IdeficsForVisionText2Text", _idefics_calls),
    "mllama": ("MllamaForConditionalGeneration", functools.partial(image_text_calls, MLLAMA)),
}
FAMILIES = {
    family: tuple(Variant(class_name, settings, calls, "whole/logits") for settings in _SETTINGS[family])
    for family, (class_name, calls) in _CLASSES.items()
}
