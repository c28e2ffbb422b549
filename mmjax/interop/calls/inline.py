"""Models whose pictures stand in the text, by the reference's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Int
from mmjax.core.errors import InputError
from mmjax.decoding.writer import Opening
from mmjax.interop.calls.adapters import (
    Adapter,
    Either,
    Outputs,
    as_int,
    check_places,
    decoded,
    decoder_outputs,
    padded,
    text_prompt,
)
from mmjax.interop.calls.queries import asked, queries_alone, query_outputs
from mmjax.interop.calls.tiles import seen_pictures, standing
from mmjax.interop.calls.vision import vit_outputs
from mmjax.models.connectors.q_former import QFormerConfig
from mmjax.models.decoders.decoder import Inline
from mmjax.parallel.sharding import nested


def _encode(pretrained, parameters, arguments):
    """The vectors of each picture (or of all pictures of a row, where the reference gives rows), what the encoder saw,
    and what other outputs tell of it under the reference's names; nothing where there are no pictures."""
    if "pixel_values" not in arguments:
        return None, None, {}
    pixels, present = seen_pictures(pretrained.config, arguments)
    (features, seen), kept = pretrained.model().apply(
        nested(parameters), pixels, asked(arguments), present, mutable=["hidden"], method="encode"
    )
    if not isinstance(pretrained.config.connector, QFormerConfig):
        return standing(pretrained, parameters, features, arguments), seen, {}
    return list(features), seen, query_outputs(pretrained.config, seen, kept["hidden"]["connector"])


def _inline(config, vectors, tokens) -> Inline | None:
    if vectors is None:
        return None
    return placed(config, jnp.concatenate(vectors), as_int(tokens))


def placed(config, features, tokens) -> Inline:
    """The vectors of the whole batch, in order, at the batch's image tokens, in order."""
    there = tokens == config.image_token
    flat = features.reshape(-1, features.shape[-1])
    number = jnp.cumsum(there.reshape(-1), dtype=jnp.int32).reshape(there.shape) - 1
    places = jnp.arange(1, tokens.shape[1] + 1, dtype=jnp.int32)[None]
    return Inline(flat[jnp.clip(number, 0, len(flat) - 1)], jnp.where(there, places, 0))


def _blocks(config, arguments):
    """Which tokens see each other: token_type_ids are 0 before the answer (PaliGemma), 1 at an image's (Gemma-3)."""
    if config.sees == "past" or "token_type_ids" not in arguments:
        return None
    kinds = as_int(arguments["token_type_ids"])
    if config.sees == "prefix":
        return (kinds == 0).astype(jnp.int32)
    starts = (kinds == 1) & ~jnp.pad(kinds == 1, ((0, 0), (1, 0)))[:, :-1]
    return jnp.where(kinds == 1, jnp.cumsum(starts, axis=1, dtype=jnp.int32), 0)


def _forward(pretrained, parameters, arguments, kw: Mapping[str, Any]) -> Outputs:
    text = padded(arguments, counted=_counted(pretrained))
    vectors, seen, further = _encode(pretrained, parameters, arguments)
    if vectors is not None:
        places = np.asarray(arguments["input_ids"]) == pretrained.config.image_token
        check_places(int(places.sum()), sum(map(len, vectors)))
    output = decoded(
        pretrained,
        parameters,
        text,
        inline=_inline(pretrained.config, vectors, arguments["input_ids"]),
        blocks=_blocks(pretrained.config, arguments),
    )
    found = decoder_outputs(pretrained.config.decoder, None, *output)
    if further:
        found |= further | {f"language_model_outputs.{name}": value for name, value in found.items()}
    if vectors is None:
        return found
    whole = _image_outputs(pretrained.config, vectors, seen, further)
    inner = {f"image_hidden_states.{name}": value for name, value in whole.items() if "hidden_states." not in name}
    return found | inner | {"image_hidden_states": _either_shape(vectors)}


def _counted(pretrained) -> bool:
    """Whether the text is of OPT, which counts positions from the first token that is there."""
    return any(part.family.model_type == "opt" for part in pretrained.family.parts)


def _either_shape(vectors) -> Either:
    """Of each picture, where they have equally many, or of all of them one after the other."""
    alike = len({len(own) for own in vectors}) == 1
    return Either((*([jnp.stack(vectors)] if alike else []), jnp.concatenate(vectors)))


def _image_features(pretrained, parameters, arguments, kw: Mapping[str, Any]) -> Outputs:
    vectors, seen, further = _encode(pretrained, parameters, arguments)
    return _image_outputs(pretrained.config, vectors, seen, further) | {"": _either_shape(vectors)}


def _query_features(pretrained, parameters, arguments, kw: Mapping[str, Any]) -> Outputs:
    """What a Q-Former gives for each picture, before it is brought to the text's width."""
    if not isinstance(pretrained.config.connector, QFormerConfig):
        raise InputError(f"get_qformer_features: a model of the family {pretrained.family.model_type} has no Q-Former")
    _, _, further = _encode(pretrained, parameters, arguments)
    return {"": further["qformer_outputs.last_hidden_state"]}


def _text_features(pretrained, parameters, arguments, kw: Mapping[str, Any]) -> Outputs:
    """The language model's hidden states of a text without pictures."""
    text = padded(arguments, counted=_counted(pretrained))
    return decoder_outputs(pretrained.config.decoder, None, *decoded(pretrained, parameters, text))


def _image_outputs(config, vectors, seen, further) -> Outputs:
    found = vit_outputs(config.vision, seen, unnormed=config.vision.pool == "class" and not further) | further
    each = {f"pooler_output.{number}": own for number, own in enumerate(vectors)}
    return found | each | {"pooler_output": _either_shape(vectors)}


def _prompt(pretrained, parameters, arguments, kw: Mapping[str, Any]) -> Opening:
    if "input_ids" not in arguments:
        arguments = {**arguments, "input_ids": queries_alone(pretrained, len(arguments["pixel_values"]))}
    vectors, _, _ = _encode(pretrained, parameters, arguments)
    first = {
        "inline": _inline(pretrained.config, vectors, arguments["input_ids"]),
        "blocks": _blocks(pretrained.config, arguments),
    }
    return text_prompt(arguments, first=first)


def _vectors(pretrained, parameters, arguments, kw: Mapping[str, Any]) -> Int[Array, ""]:
    vectors, _, _ = _encode(pretrained, parameters, arguments)
    return jnp.int32(0 if vectors is None else sum(map(len, vectors)))


INLINE = Adapter(
    {
        "forward": _forward,
        "get_image_features": _image_features,
        "get_qformer_features": _query_features,
        "get_text_features": _text_features,
    },
    _prompt,
    vectors=_vectors,
)
