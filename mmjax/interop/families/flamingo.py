"""What the tables of Flamingo's relatives outside share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.core.batch import Batch
from mmjax.interop.family import Family, Part, Place, Row, decoder_places
from mmjax.interop.settings import fixed
from mmjax.models.decoders.decoder import plan_depth
from mmjax.models.flamingo import Flamingo, FlamingoConfig

# Of CLIP's pictures, which both were trained on.
_PIXELS = fixed(
    image_mean=(0.48145466, 0.4578275, 0.40821073), image_std=(0.26862954, 0.26130258, 0.27577711), project_media=False
)


def _abstract_inputs(config: FlamingoConfig) -> tuple:
    side = config.vision.image_size
    text = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return (
        Batch(
            tokens=text,
            positions=text,
            segment_ids=text,
            targets=text,
            loss_weights=jax.ShapeDtypeStruct((1, 1), jnp.float32),
            media_index=text,
            images=jax.ShapeDtypeStruct((1, 1, side, side, 3), jnp.uint8),
            image_mask=jax.ShapeDtypeStruct((1, 1), jnp.bool_),
            dataset_ids=jax.ShapeDtypeStruct((1,), jnp.int32),
        ),
    )


def flamingo_places(config: FlamingoConfig) -> dict[str, dict[int, Place]]:
    """Of the decoder's layers, of the blocks before them (by the layer that they stand before), of the resampler's."""
    plan, cross = plan_depth(config.decoder, config.cross), {}
    size = plan.layers_per_superblock
    for block in range(plan.superblocks):
        for slot in config.cross.slots(size):
            cross[block * size + slot] = Place(f"decoder/layers/cross_{slot}", block)
    for slot in config.cross.slots(plan.tail_layers):
        cross[plan.superblocks * size + slot] = Place(f"decoder/tail/cross_{slot}")
    reading = 0 if config.resampler is None else config.resampler.layers
    return {
        "decoder.layer": decoder_places(config.decoder.layers, plan.superblocks, size, "decoder/"),
        "cross": cross,
        "reading": {layer: Place("resampler/layers", layer) for layer in range(reading)},
    }


def _canonical(config: FlamingoConfig) -> FlamingoConfig:
    """Without what a trained model no longer has (where its gates started), and with what is derived spelt out."""
    looks = config.cross.attention
    looks = dataclasses.replace(
        looks,
        kv_heads=looks.groups,
        scale=looks.head_width**-0.5 if looks.scale is None else looks.scale,
        norm_eps=1e-6 if looks.qk_norm == "none" else looks.norm_eps,
        qk_norm_kind="rms" if looks.qk_norm == "none" else looks.qk_norm_kind,
    )
    return dataclasses.replace(config, cross=dataclasses.replace(config.cross, attention=looks, gate_init=0.0))


def flamingo_family(model_type: str, architecture: str, parts: tuple[Part, ...], settings, rows, **more: Any) -> Family:
    """A family of `Flamingo`."""
    return Family(
        model_type,
        architecture,
        FlamingoConfig,
        (*settings, _PIXELS),
        tuple(rows),
        model=Flamingo,
        inputs=_abstract_inputs,
        parts=parts,
        canonical=_canonical,
        not_exported=(),
        writes=True,
        **more,
    )


def gates(outside: Sequence[str]) -> list[Row]:
    """The two gates of a block: one number each, or one for each channel."""
    patterns = {"scalar": " -> 1", "channel": "D -> 1 1 D"}
    return [
        Row(name, f"{{cross}}/{inside}_gate", pattern, where=(("gate_shape", shape),), part="cross")
        for name, inside in zip(outside, ("attention", "mlp"), strict=True)
        for shape, pattern in patterns.items()
    ]
