"""Picture encoders with a decoder that attends to them, by the reference's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from mmjax.core.arrays import Array, Int
from mmjax.core.errors import InputError
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
from mmjax.interop.calls.vision import vit_outputs
from mmjax.models.decoders.decoder import Media
from mmjax.models.encoder_decoder import EncoderDecoderConfig
from mmjax.parallel.sharding import nested


def _text_of(config: EncoderDecoderConfig, arguments) -> dict[str, Any]:
    """The decoder's arguments by their names without prefix; labels, where they are given, one place further right."""
    found = {name.removeprefix("decoder_"): value for name, value in arguments.items() if name.startswith("decoder_")}
    if "input_ids" not in found:
        found["input_ids"] = _shifted(config, as_int(arguments["labels"]))
    return found


def _shifted(config: EncoderDecoderConfig, labels: Int[Array, "B T"]) -> Int[Array, "B T"]:
    if config.start_token is None or config.pad_token is None:
        raise InputError("labels need decoder_start_token_id and pad_token_id in config.json")
    tokens = jnp.roll(labels, 1, axis=1).at[:, 0].set(config.start_token)
    return jnp.where(tokens == -100, config.pad_token, tokens)


def _encode(pretrained, parameters, arguments):
    pixels = pictures(arguments["pixel_values"])[:, None]
    return pretrained.model().apply(nested(parameters), pixels, method="encode")


def _forward(pretrained, parameters, arguments, kw: Mapping[str, Any]) -> Outputs:
    config = pretrained.config
    text = padded(_text_of(config, arguments))
    media, seen = _encode(pretrained, parameters, arguments)
    output = decoded(pretrained, parameters, text, media=media, media_index=text.looking)
    found = decoder_outputs(config.decoder, None, *output)
    texts = {f"decoder_{name}": value for name, value in found.items()}
    images = vit_outputs(config.vision, seen, unnormed=False)
    return {"logits": found["logits"], **texts, **{f"encoder_{name}": value for name, value in images.items()}}


def _prompt(pretrained, parameters, arguments, kw: Mapping[str, Any]) -> Opening:
    """Every text starts from the start token, unless it is given."""
    config = pretrained.config
    text = {name: value for name, value in arguments.items() if name.startswith("decoder_")}
    if not text:
        if config.start_token is None:
            raise InputError("generate needs decoder_start_token_id in config.json")
        rows = arguments["pixel_values"].shape[0]
        text = {"decoder_input_ids": jnp.full((rows, 1), config.start_token, jnp.int32)}
    text = _text_of(config, text)
    media, _ = _encode(pretrained, parameters, arguments)
    ones = jnp.ones(text["input_ids"].shape, jnp.int32)
    return text_prompt(
        text,
        first={"media": media, "media_index": ones},
        later={"media": Media(None, media.segments), "media_index": ones[:, :1]},
    )


ENCODER_DECODER = Adapter({"forward": _forward}, _prompt)
