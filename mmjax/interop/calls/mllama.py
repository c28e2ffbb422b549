"""Llama 3.2 Vision by the reference's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from mmjax.decoding.writer import Opening
from mmjax.interop.calls.adapters import (
    Adapter,
    Outputs,
    as_int,
    decoded,
    decoder_outputs,
    padded,
    pictures,
    text_prompt,
)
from mmjax.models.decoders.decoder import Media
from mmjax.parallel.sharding import nested


def _look(pretrained, parameters, arguments) -> dict[str, Any]:
    """What the pictures show, and which of it each token may look at (without a mask: all of it)."""
    tile_mask = as_int(arguments["aspect_ratio_mask"]).astype(bool)
    media = pretrained.model().apply(
        nested(parameters),
        pictures(arguments["pixel_values"]),
        tile_mask,
        as_int(arguments["aspect_ratio_ids"]),
        method="encode",
    )
    batch, length = arguments["input_ids"].shape
    shape = (batch, length, tile_mask.shape[1] * tile_mask.shape[2])
    tiles = as_int(arguments.get("cross_attention_mask", jnp.ones(shape, jnp.int32))).reshape(shape)
    allowed = jnp.repeat(tiles.astype(bool), pretrained.config.vision.tokens, axis=2)
    return {"media": media, "media_allowed": allowed}


def _forward(pretrained, parameters, arguments, kw: Mapping[str, Any]) -> Outputs:
    text = padded(arguments)
    output = decoded(pretrained, parameters, text, **_look(pretrained, parameters, arguments))
    return decoder_outputs(pretrained.config.decoder, pretrained.config.cross, *output, crossing=True)


def _prompt(pretrained, parameters, arguments, kw: Mapping[str, Any]) -> Opening:
    """What is written looks at what the prompt's last token looks at."""
    first = _look(pretrained, parameters, arguments)
    later = {
        "media": Media(None, first["media"].segments),
        "media_allowed": first["media_allowed"][:, -1:],
    }
    return text_prompt(arguments, first=first, later=later)


MLLAMA = Adapter({"forward": _forward}, _prompt)
