"""Picture encoders, and two towers, by the reference's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from mmjax.interop.calls.adapters import Adapter, Either, Outputs, padded, pictures
from mmjax.interop.calls.patches import given_pictures
from mmjax.interop.calls.text import encoder_outputs
from mmjax.models.encoders.vit import ViTConfig, ViTOutput
from mmjax.models.two_tower import vector_of
from mmjax.parallel.sharding import nested

# Towers whose last hidden state the reference gives as it was before the last norm.
_UNNORMED = ("clip_vision_model",)


def vit_outputs(config: ViTConfig, output: ViTOutput, *, unnormed: bool) -> Outputs:
    """Every output of a ViT; releases differ in whether the last of the hidden states is the normalised one."""
    states: Outputs = {f"hidden_states.{number}": x for number, x in enumerate(output.hidden)}
    states[f"hidden_states.{config.layers}"] = Either((output.hidden[-1], output.tokens))
    found = {"last_hidden_state": output.hidden[-1] if unnormed else output.tokens, **states}
    if output.pooled is not None:
        found["pooler_output"] = Either((output.pooled, vector_of(output)))
    if output.projected is not None:
        found |= {"image_embeds": output.projected, "logits": output.projected}
    return found


def _vit_forward(pretrained, parameters, arguments, kw: Mapping[str, Any]) -> Outputs:
    masked = arguments.get("bool_masked_pos")
    masked = None if masked is None else jnp.asarray(masked).astype(bool)
    seen = given_pictures(pretrained.config, arguments)
    output = pretrained.model().apply(nested(parameters), seen.images, masked, seen.present)
    return vit_outputs(pretrained.config, seen.in_order(output), unnormed=pretrained.family.model_type in _UNNORMED)


def _convnext_forward(pretrained, parameters, arguments, kw: Mapping[str, Any]) -> Outputs:
    output = pretrained.model().apply(nested(parameters), pictures(arguments["pixel_values"]))
    states = {f"hidden_states.{number}": jnp.moveaxis(x, -1, 1) for number, x in enumerate(output.hidden)}
    found = {"last_hidden_state": jnp.moveaxis(output.last_hidden_state, -1, 1), "pooler_output": output.pooled}
    return found | states | ({} if output.projected is None else {"logits": output.projected})


def _towers_forward(pretrained, parameters, arguments, kw: Mapping[str, Any]) -> Outputs:
    text, seen = padded(arguments), given_pictures(pretrained.config.vision, arguments)
    output, kept = pretrained.model().apply(
        nested(parameters),
        seen.images,
        text.tokens,
        text.positions,
        text.present,
        text.looking,
        seen.present,
        mutable=["hidden"],
    )
    config = pretrained.config
    texts = encoder_outputs(config.text, output.text, kept["hidden"]["text"]["decoder"])
    images = vit_outputs(config.vision, seen.in_order(output.image), unnormed=config.vision.pool == "class")
    return {
        "logits_per_image": output.logits,
        "logits_per_text": output.logits.T,
        "image_embeds": output.image_embeddings,
        "text_embeds": output.text_embeddings,
        **{f"text_model_output.{name}": value for name, value in texts.items()},
        **{f"vision_model_output.{name}": value for name, value in images.items()},
    }


def _text_features(pretrained, parameters, arguments, kw: Mapping[str, Any]) -> Outputs:
    text = padded(arguments)
    output, kept = pretrained.model().apply(
        nested(parameters),
        text.tokens,
        text.positions,
        text.present,
        text.looking,
        mutable=["hidden"],
        method="encode_text",
    )
    found = encoder_outputs(pretrained.config.text, output, kept["hidden"]["text"]["decoder"])
    return found | {"": vector_of(output)}


def _image_features(pretrained, parameters, arguments, kw: Mapping[str, Any]) -> Outputs:
    config = pretrained.config.vision
    seen = given_pictures(config, arguments)
    output = pretrained.model().apply(nested(parameters), seen.images, seen.present, method="encode_images")
    return vit_outputs(config, seen.in_order(output), unnormed=config.pool == "class") | {"": vector_of(output)}


VIT = Adapter({"forward": _vit_forward})
CONVNEXT = Adapter({"forward": _convnext_forward})
TWO_TOWER = Adapter(
    {"forward": _towers_forward, "get_text_features": _text_features, "get_image_features": _image_features}
)
