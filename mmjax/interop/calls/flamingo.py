"""OpenFlamingo and IDEFICS by the reference's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.decoding.writer import Opening, Writer
from mmjax.interop.calls.adapters import (
    Adapter,
    Outputs,
    Padded,
    decoded,
    decoder_outputs,
    padded,
    pictures,
    text_prompt,
    writer_of,
)
from mmjax.models.decoders.decoder import Media, layer_outputs
from mmjax.models.flamingo import last_images
from mmjax.parallel.sharding import nested


def _is_open(pretrained) -> bool:
    return pretrained.family.model_type == "open_flamingo"


def _tokens(pretrained) -> str:
    return "lang_x" if _is_open(pretrained) else "input_ids"


def _text(pretrained, arguments) -> Padded:
    """IDEFICS counts positions from the first token that is there; in OpenFlamingo only OPT does."""
    counted = not _is_open(pretrained) or "opt" in [part.family.model_type for part in pretrained.family.parts]
    return padded(arguments, tokens=_tokens(pretrained), counted=counted)


def _media(pretrained, parameters, arguments) -> Media:
    """What the text may look at. OpenFlamingo never trains the vision tower: no gradient goes there."""
    pixels = arguments["vision_x"] if _is_open(pretrained) else arguments["pixel_values"]
    if _is_open(pretrained):
        parameters = {
            path: jax.lax.stop_gradient(value) if path.startswith("vision/") else value
            for path, value in parameters.items()
        }
    images = pictures(pixels)
    present = jnp.ones(images.shape[:-3], bool)
    return pretrained.model().apply(nested(parameters), images, present, method="encode_normalized")


def _looks(pretrained, arguments, media: Media) -> dict[str, Any]:
    """At which images each token looks: the last one before it, or those that IDEFICS' image_attention_mask names."""
    if _is_open(pretrained):
        tokens = jnp.asarray(arguments["lang_x"])
        return {"media_index": last_images(tokens, pretrained.config.image_token)}
    images = jnp.asarray(arguments["image_attention_mask"]).astype(bool)
    return {"media_allowed": jnp.repeat(images, media.features.shape[1] // images.shape[-1], axis=-1)}


def _forward(pretrained, parameters, arguments, kw: Mapping[str, Any]) -> Outputs:
    config = pretrained.config
    text, media = _text(pretrained, arguments), _media(pretrained, parameters, arguments)
    output, hidden = decoded(pretrained, parameters, text, media=media, **_looks(pretrained, arguments, media))
    found = decoder_outputs(config.decoder, config.cross, output, hidden)
    if _is_open(pretrained):
        return found
    # The first of the hidden states is what the first self-attention layer reads, after the block before it.
    found["hidden_states.0"] = layer_outputs(config.decoder, config.cross, hidden)[1][1]
    images = arguments["pixel_values"].shape[1]
    features = media.features.reshape(media.features.shape[0], images, -1, media.features.shape[-1])
    return found | {"image_hidden_states": features}


def _prompt(pretrained, parameters, arguments, kw: Mapping[str, Any]) -> Opening:
    """What is written looks at what the last token of the prompt looks at."""
    media = _media(pretrained, parameters, arguments)
    looks = _looks(pretrained, arguments, media)
    last = {name: rule[:, -1:] for name, rule in looks.items()}
    return text_prompt(
        arguments,
        tokens=_tokens(pretrained),
        first={"media": media, **looks},
        later={"media": media.replace(features=None), **last},
    )


def _writer(pretrained, prompt: Opening) -> Writer:
    return writer_of(pretrained, prompt, stop=pretrained.config.chunk_end if _is_open(pretrained) else None)


FLAMINGO = Adapter({"forward": _forward}, _prompt, _writer)
