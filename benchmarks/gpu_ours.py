"""Our side of `benchmarks.gpu`: float32 parameters and AdamW, bfloat16 products, the attention backend of the GPU."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.alternate import Work
from benchmarks.gpu_shapes import Pictures, Shapes, Text
from mmjax.core.batch import Batch
from mmjax.models.connectors.projector import ProjectorConfig
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.decoders.decoder import Decoder, empty_cache
from mmjax.models.decoders.sizes import SIZES as DECODERS
from mmjax.models.encoders.sizes import SIZES as ENCODERS
from mmjax.models.encoders.vit import ViT, ViTConfig
from mmjax.models.inline import InlineConfig, InlineModel
from mmjax.objectives.language import LanguageConfig, language_loss, position_weights
from mmjax.ops.attention import default_backend
from mmjax.planning.flops import seen_flops

DTYPE = jnp.bfloat16
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.01


def decoder(shapes: Shapes) -> Work:
    """A decoder's train step."""
    text = shapes.decoder
    batch = _batch(shapes.texts(text.rows, text.length))
    model = Decoder(_llama(text), dtype=DTYPE)
    params = _init(model, batch.tokens[:1, :8], batch.positions[:1, :8], batch.segment_ids[:1, :8])

    def loss(params, _, batch):
        output = model.apply({"params": params}, batch.tokens, batch.positions, batch.segment_ids)
        return _language(output, batch)

    return _training(loss, params, {}, batch)


def greedy(shapes: Shapes) -> Work:
    """Prompts read and written on, the likeliest token each time; parameters in bfloat16."""
    text, config = shapes.decoder, _llama(shapes.decoder)
    model = Decoder(config, dtype=DTYPE)
    prompts = jnp.asarray(shapes.texts(shapes.prompts, text.prompt))
    ones = jnp.ones_like(prompts)
    params = jax.tree.map(lambda leaf: leaf.astype(DTYPE), _init(model, prompts[:1], ones[:1], ones[:1]))

    def read(params, tokens, start, cache):
        places = jnp.broadcast_to(start + jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)
        segments = jnp.ones_like(tokens)
        output = model.apply({"params": params}, tokens, places, segments, cache=cache, write_index=places)
        scores = jnp.einsum(
            "bd,vd->bv",
            output.hidden[:, -1],
            output.unembedding.astype(DTYPE),
            preferred_element_type=jnp.float32,
        )
        return jnp.argmax(scores, axis=-1).astype(jnp.int32), output.cache

    def generate(params, prompts):
        cache = empty_cache(config, None, batch=len(prompts), length=text.prompt + text.new, dtype=DTYPE)
        token, cache = read(params, prompts, jnp.int32(0), cache)

        def write(state, number):
            token, cache = state
            new, cache = read(params, token[:, None], text.prompt + number, cache)
            return (new, cache), token

        (last, _), tokens = jax.lax.scan(write, (token, cache), jnp.arange(text.new - 1, dtype=jnp.int32))
        return jnp.concatenate([tokens, last[None]])

    compiled = jax.jit(generate)
    return Work(
        {"run": lambda: jax.block_until_ready(compiled(params, prompts))},
        _count(params),
        _flops(generate, params, prompts),
    )


def vit(shapes: Shapes) -> Work:
    """A ViT's train step, towards small outputs."""
    model = ViT(_vit("L/16", shapes.vit), DTYPE)
    images = jnp.asarray(shapes.pixels(shapes.vit), jnp.float32) / 127.5 - 1.0
    params = _init(model, images[:1])

    def loss(params, _, images):
        return jnp.mean(jnp.square(model.apply({"params": params}, images).tokens.astype(jnp.float32)))

    return _training(loss, params, {}, images)


def vlm(shapes: Shapes) -> Work:
    """A LLaVA's train step: the tower frozen (in bfloat16), projector and decoder trained."""
    text = shapes.decoder
    config = InlineConfig(
        vision=dataclasses.replace(_vit("CLIP-L/14-336", shapes.vlm_vision), feature_layer=-2),
        connector=ProjectorConfig(text.width, hidden=text.width),
        decoder=_llama(text),
        image_token=shapes.image_token,
    )
    model = InlineModel(config, DTYPE)
    batch = _batch(shapes.multimodal(), shapes.pixels(shapes.vlm_vision)[:, None], shapes.image_token)
    params = _init(functools.partial(model.init, method="read"), jax.tree.map(lambda leaf: leaf[:1], batch))
    frozen = {"vision": jax.tree.map(lambda leaf: leaf.astype(DTYPE), params.pop("vision"))}

    def loss(params, frozen, batch):
        return _language(model.apply({"params": params | frozen}, batch, method="read"), batch)

    return _training(loss, params, frozen, batch)


WORKS: dict[str, Callable[[Shapes], Work]] = {"decoder": decoder, "greedy": greedy, "vit": vit, "vlm": vlm}


def _training(loss: Callable[..., Any], params: Any, frozen: Any, batch: Any) -> Work:
    optimizer = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def step(params, state, frozen, batch):
        value, gradients = jax.value_and_grad(loss)(params, frozen, batch)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    compiled = jax.jit(step, donate_argnums=(0, 1))
    kept = [params, jax.jit(optimizer.init)(params)]
    count, flops = _count((params, frozen)), _flops(step, *kept, frozen, batch)

    def train():
        *kept[:], value = compiled(*kept, frozen, batch)
        jax.block_until_ready(kept)
        assert np.isfinite(value)

    return Work({"run": train}, count, flops)


def _flops(function: Callable[..., Any], *arguments: Any) -> dict[str, int]:
    """Of one call, as MFU is reckoned: of a causal grid half."""
    with default_backend("reference"):
        return {"run": seen_flops(lambda *fresh: function(*fresh), *arguments)}


def _language(output, batch):
    return language_loss(output, batch, position_weights(batch, (1.0,)), LanguageConfig(), datasets=1)[0]


def _batch(tokens: np.ndarray, images: np.ndarray | None = None, image_token: int = -1) -> Batch:
    """Rows of one example each, in which every text token is learned."""
    rows, length = tokens.shape
    targets = np.pad(tokens[:, 1:], ((0, 0), (0, 1)))
    weights = (targets != image_token).astype(np.float32)
    weights[:, -1] = 0.0
    places = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape)
    images = np.zeros((rows, 0, 1, 1, 3), np.uint8) if images is None else images
    batch = Batch(
        tokens=tokens,
        positions=places,
        segment_ids=np.ones_like(tokens),
        targets=targets,
        loss_weights=weights,
        media_index=np.full_like(tokens, images.shape[1]),
        images=images,
        image_mask=np.ones(images.shape[:2], bool),
        dataset_ids=np.zeros(rows, np.int32),
    )
    return jax.tree.map(jnp.asarray, batch)


def _llama(text: Text) -> DecoderConfig:
    return dataclasses.replace(
        DECODERS["llama-3.2-1b"],
        vocab_size=text.vocabulary,
        width=text.width,
        layers=text.layers,
        heads=text.heads,
        kv_heads=text.kv_heads,
        head_width=text.head_width,
        mlp_width=text.mlp_width,
        rope_scaling=None,
    )


def _vit(name: str, pictures: Pictures) -> ViTConfig:
    return dataclasses.replace(
        ENCODERS[name],
        image_size=pictures.image,
        patch_size=pictures.patch,
        width=pictures.width,
        layers=pictures.layers,
        heads=pictures.heads,
        mlp_width=pictures.mlp_width,
    )


def _init(model: nn.Module | Callable[..., Any], *inputs: Any) -> dict[str, Any]:
    init = model.init if isinstance(model, nn.Module) else model
    return dict(nn.unbox(jax.jit(init)(jax.random.key(0), *inputs))["params"])


def _count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
