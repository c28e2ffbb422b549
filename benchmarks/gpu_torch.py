"""Torch's side of `benchmarks.gpu`: transformers' models, compiled, with `sdpa` attention and the fused AdamW.

As on our side, parameters that train are float32 and products bfloat16 (autocast); dropout is off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

from benchmarks.alternate import Work
from benchmarks.gpu_shapes import Pictures, Shapes, Text

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.01


def decoder(shapes: Shapes) -> Work:
    """A decoder's train step."""
    text = shapes.decoder
    model = LlamaForCausalLM(_llama(text)).to(DEVICE)
    tokens = torch.from_numpy(shapes.texts(text.rows, text.length)).long().to(DEVICE)
    return _training(model, lambda model: model(tokens, labels=tokens).loss)


def greedy(shapes: Shapes) -> Work:
    """Prompts read and written on; on a GPU with a static cache, for which `generate` compiles the step."""
    text = shapes.decoder
    model = LlamaForCausalLM(_llama(text, use_cache=True)).to(DEVICE, torch.bfloat16).eval()
    prompts = torch.from_numpy(shapes.texts(shapes.prompts, text.prompt)).long().to(DEVICE)
    settings: dict[str, Any] = {"max_new_tokens": text.new, "min_new_tokens": text.new, "do_sample": False}
    if DEVICE == "cuda":
        settings["cache_implementation"] = "static"

    def run():
        written = model.generate(prompts, attention_mask=torch.ones_like(prompts), pad_token_id=0, **settings)
        assert written.shape[1] == text.prompt + text.new
        _synchronize()

    return Work({"run": run}, _count(model))


def vit(shapes: Shapes) -> Work:
    """A ViT's train step, towards small outputs."""
    pictures = shapes.vit
    model = ViTModel(ViTConfig(**_sizes(pictures), attn_implementation="sdpa"), add_pooling_layer=False).to(DEVICE)
    images = _pixels(shapes, pictures)
    return _training(model, lambda model: model(images).last_hidden_state.float().square().mean())


def vlm(shapes: Shapes) -> Work:
    """A LLaVA's train step: the tower frozen (in bfloat16), projector and decoder trained."""
    pictures = shapes.vlm_vision
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_sizes(pictures), hidden_act="quick_gelu"),
        text_config=_llama(shapes.decoder),
        image_token_id=shapes.image_token,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    model = LlavaForConditionalGeneration(config).to(DEVICE)
    model.model.vision_tower.requires_grad_(False).to(torch.bfloat16)
    tokens = torch.from_numpy(shapes.multimodal()).long().to(DEVICE)
    labels = tokens.masked_fill(tokens == shapes.image_token, -100)
    images = _pixels(shapes, pictures).to(torch.bfloat16)
    return _training(model, lambda model: model(input_ids=tokens, pixel_values=images, labels=labels).loss)


WORKS: dict[str, Callable[[Shapes], Work]] = {"decoder": decoder, "greedy": greedy, "vit": vit, "vlm": vlm}


def _training(model: torch.nn.Module, loss: Callable[[Any], torch.Tensor]) -> Work:
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    compiled = torch.compile(model) if DEVICE == "cuda" else model

    def train():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE, torch.bfloat16):
            value = loss(compiled)
        value.backward()
        optimizer.step()
        _synchronize()
        assert np.isfinite(value.item())

    return Work({"run": train}, _count(model))


def _llama(text: Text, **settings: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=text.vocabulary,
        hidden_size=text.width,
        num_hidden_layers=text.layers,
        num_attention_heads=text.heads,
        num_key_value_heads=text.kv_heads,
        head_dim=text.head_width,
        intermediate_size=text.mlp_width,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        bos_token_id=0,
        eos_token_id=None,
        **{"use_cache": False, **settings},
    )


def _sizes(pictures: Pictures) -> dict[str, int]:
    return {
        "image_size": pictures.image,
        "patch_size": pictures.patch,
        "hidden_size": pictures.width,
        "num_hidden_layers": pictures.layers,
        "num_attention_heads": pictures.heads,
        "intermediate_size": pictures.mlp_width,
    }


def _pixels(shapes: Shapes, pictures: Pictures) -> torch.Tensor:
    pixels = torch.from_numpy(shapes.pixels(pictures).transpose(0, 3, 1, 2).astype(np.float32))
    return (pixels / 127.5 - 1.0).contiguous().to(DEVICE)


def _synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def _count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
