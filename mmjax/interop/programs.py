"""The functions of a model that are exported, of fixed shapes: what encodes, and where it writes, prefill and decode.

  encode   (pixels, ...)                                -> features (and which picture each belongs to)
  prefill  (tokens, positions, segments, features, ...) -> logits of each row's last token, cache
  decode   (cache, token, position, place, ...)         -> logits, cache

Two towers have encode_images and encode_text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.core.arrays import Array
from mmjax.core.errors import InputError
from mmjax.interop.engine import Pretrained
from mmjax.models.connectors.q_former import QFormerConfig, Question
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.decoders.decoder import Inline, Media, empty_cache
from mmjax.models.encoder_decoder import EncoderDecoderConfig
from mmjax.models.encoders.convnext import ConvNeXtConfig
from mmjax.models.encoders.text import TextEncoderConfig
from mmjax.models.encoders.vit import ViTConfig
from mmjax.models.flamingo import FlamingoConfig
from mmjax.models.inline import InlineConfig
from mmjax.models.mllama import MllamaConfig
from mmjax.models.two_tower import TwoTowerConfig, unit_length, vector_of
from mmjax.parallel.sharding import nested


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The fixed sizes of the programs: rows, tokens of a prompt, tokens that may follow it, and pictures a row."""

    batch: int = 1
    length: int = 128
    new_tokens: int = 64
    images: int = 1

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise InputError(f"{field.name} must be at least 1, not {getattr(self, field.name)}")


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of parameters and named arrays, and the shapes of these."""

    function: Callable[[Mapping[str, Array], Mapping[str, Any]], dict[str, Any]]
    inputs: dict[str, jax.ShapeDtypeStruct]


def make_programs(pretrained: Pretrained, shapes: Shapes) -> dict[str, Program]:
    """The programs of a model, by name.

    Raises:
      InputError: there are none for a model of this kind; what stands in the way is named.
    """
    make = _KINDS.get(type(pretrained.config))
    if make is None:
        known = ", ".join(sorted(config.__name__.removesuffix("Config") for config in _KINDS))
        raise InputError(
            f"there are no programs for {type(pretrained.config).__name__.removesuffix('Config')}, of which models of "
            f"the family {pretrained.family.model_type} are made; there are for {known}"
        )
    return make(pretrained, shapes)


def _array(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _pixels(*leading: int, side: int) -> jax.ShapeDtypeStruct:
    return _array(*leading, side, side, 3, dtype=jnp.float32)


def _given(**outputs: Any) -> dict[str, Any]:
    """The outputs that there are."""
    return {name: value for name, value in outputs.items() if value is not None}


# ---- Encoders alone.


def _vit_programs(pretrained, shapes) -> dict[str, Program]:
    model = pretrained.model()

    def encode(parameters, inputs):
        seen = model.apply(nested(parameters), inputs["pixels"])
        return _given(last_hidden_state=seen.tokens, pooled=seen.pooled, projected=seen.projected)

    count = shapes.batch * shapes.images
    return {"encode": Program(encode, {"pixels": _pixels(count, side=pretrained.config.image_size)})}


def _convnext_programs(pretrained, shapes) -> dict[str, Program]:
    model = pretrained.model()

    def encode(parameters, inputs):
        seen = model.apply(nested(parameters), inputs["pixels"])
        return _given(last_hidden_state=seen.last_hidden_state, pooled=seen.pooled, projected=seen.projected)

    side = -(-224 // pretrained.config.stride) * pretrained.config.stride
    return {"encode": Program(encode, {"pixels": _pixels(shapes.batch * shapes.images, side=side)})}


def _text_of(config: TextEncoderConfig, shapes: Shapes) -> dict[str, jax.ShapeDtypeStruct]:
    text = _array(shapes.batch, min(shapes.length, config.decoder.max_length))
    return {"tokens": text, "segments": text}


def _places(tokens: Array) -> Array:
    return jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)


def _text_encoder_programs(pretrained, shapes) -> dict[str, Program]:
    model = pretrained.model()

    def encode(parameters, inputs):
        tokens = inputs["tokens"]
        read = model.apply(nested(parameters), tokens, _places(tokens), inputs["segments"])
        return _given(last_hidden_state=read.hidden, pooled=read.pooled, projected=read.projected, logits=read.logits)

    return {"encode": Program(encode, _text_of(pretrained.config, shapes))}


def _two_tower_programs(pretrained, shapes) -> dict[str, Program]:
    config, model = pretrained.config, pretrained.model()

    def scaling(parameters):
        """A pair's logit is scale x cosine + bias."""
        bias = None if config.bias_init is None else parameters["logit_bias"][0]
        return _given(scale=jnp.exp(parameters["logit_scale"][0]), bias=bias)

    def encode_images(parameters, inputs):
        seen = model.apply(nested(parameters), inputs["pixels"], method="encode_images")
        return {"image_embeddings": unit_length(vector_of(seen)), **scaling(parameters)}

    def encode_text(parameters, inputs):
        tokens = inputs["tokens"]
        read = model.apply(nested(parameters), tokens, _places(tokens), inputs["segments"], method="encode_text")
        return {"text_embeddings": unit_length(vector_of(read)), **scaling(parameters)}

    pixels = _pixels(shapes.batch * shapes.images, side=config.vision.image_size)
    return {
        "encode_images": Program(encode_images, {"pixels": pixels}),
        "encode_text": Program(encode_text, _text_of(config.text, shapes)),
    }


# ---- Models that write.


def _decoder_programs(pretrained, shapes) -> dict[str, Program]:
    return _text_programs(pretrained, shapes, pretrained.config, None, 0, {}, lambda inputs: {}, lambda inputs: {})


def _text_programs(pretrained, shapes, decoder, cross, media_length, more, first, later) -> dict[str, Program]:
    """`more`: inputs beside the text; `first` and `later` make arguments of `decode` of the inputs."""
    model = pretrained.model()
    method = "__call__" if isinstance(pretrained.config, DecoderConfig) else "decode"
    batch, length, total = shapes.batch, shapes.length, shapes.length + shapes.new_tokens
    cache = jax.eval_shape(lambda: empty_cache(decoder, cross, batch=batch, length=total, media_length=media_length))
    leaves, tree = jax.tree.flatten(cache)
    named = {f"cache_{number:03}": leaf for number, leaf in enumerate(leaves)}

    def run(parameters, tokens, positions, segments, cache, places, further):
        return model.apply(
            nested(parameters), tokens, positions, segments, cache=cache, write_index=places, method=method, **further
        )

    def outcome(output, places):
        hidden = output.hidden[jnp.arange(batch), places]
        return {"logits": output.replace(hidden=hidden).logits()} | dict(
            zip(named, jax.tree.leaves(output.cache), strict=True)
        )

    def prefill(parameters, inputs):
        empty = empty_cache(decoder, cross, batch=batch, length=total, media_length=media_length)
        places = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], (batch, length))
        output = run(parameters, inputs["tokens"], inputs["positions"], inputs["segments"], empty, None, first(inputs))
        return outcome(output, jnp.max(jnp.where(inputs["segments"] > 0, places, 0), axis=1))

    def decode(parameters, inputs):
        kept = jax.tree.unflatten(tree, [inputs[name] for name in named])
        ones = jnp.ones((batch, 1), jnp.int32)
        output = run(
            parameters,
            inputs["token"][:, None],
            inputs["position"][:, None],
            ones,
            kept,
            ones * inputs["place"],
            later(inputs),
        )
        return outcome(output, jnp.zeros((batch,), jnp.int32))

    text = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    one = jax.ShapeDtypeStruct((batch,), jnp.int32)
    prompt = {"tokens": text, "positions": text, "segments": text, **more.get("prefill", {})}
    step = {
        **named,
        "token": one,
        "position": one,
        "place": jax.ShapeDtypeStruct((), jnp.int32),
        **more.get("decode", {}),
    }
    return {"prefill": Program(prefill, prompt), "decode": Program(decode, step)}


def _inline_programs(pretrained, shapes) -> dict[str, Program]:
    config, model = pretrained.config, pretrained.model()
    _check_plain(pretrained)
    count = shapes.batch * shapes.images
    inputs = {"pixels": _pixels(count, side=config.vision.image_size)}
    if config.vision.position_resize == "fraction":  # as pictures with a border of padding are read (Idefics-3)
        inputs["patches_present"] = _array(count, config.vision.grid**2, dtype=jnp.bool_)
    if isinstance(config.connector, QFormerConfig) and config.connector.vocab_size:
        question = (count, min(shapes.length, config.connector.max_length))
        inputs |= {"question": _array(*question), "question_present": _array(*question, dtype=jnp.bool_)}

    def encode(parameters, inputs):
        question = Question(inputs["question"], inputs["question_present"]) if "question" in inputs else None
        features, _ = model.apply(
            nested(parameters), inputs["pixels"], question, inputs.get("patches_present"), method="encode"
        )
        return {"features": features.reshape(shapes.batch, -1, features.shape[-1])}

    encoder = Program(encode, inputs)
    more = {"features": _outputs(pretrained, encoder)["features"]}

    def first(inputs):
        there = inputs["tokens"] == config.image_token
        index = jnp.where(there, jnp.cumsum(there, axis=1, dtype=jnp.int32), 0)
        blocks = None if config.sees == "past" else {"blocks": inputs["blocks"]}
        return {"inline": Inline(inputs["features"], index)} | (blocks or {})

    if config.sees != "past":
        more["blocks"] = _array(shapes.batch, shapes.length)
    rest = _text_programs(pretrained, shapes, config.decoder, None, 0, {"prefill": more}, first, lambda inputs: {})
    return {"encode": encoder, **rest}


def _check_plain(pretrained) -> None:
    """Pictures must all be of one size, which the programs' shapes are made of."""
    config = pretrained.config
    if not isinstance(config.vision, ViTConfig) or config.tiles is not None:
        what = "of any size" if config.tiles is None else "in a number of tiles that differs"
        raise InputError(
            f"models of the family {pretrained.family.model_type} read pictures {what}, and programs have fixed "
            "shapes; there are none for them"
        )


def _flamingo_programs(pretrained, shapes) -> dict[str, Program]:
    config = pretrained.config
    inputs = {
        "pixels": _pixels(shapes.batch, shapes.images, side=config.vision.image_size),
        "image_mask": _array(shapes.batch, shapes.images, dtype=jnp.bool_),
    }
    looks = {"media_index": _array(shapes.batch, shapes.length)}, {"media_index": _array(shapes.batch)}

    def look(inputs):
        index = inputs["media_index"]
        return {"media_index": index if index.ndim == 2 else index[:, None]}

    return _media_programs(pretrained, shapes, inputs, "encode_normalized", looks, look)


def _mllama_programs(pretrained, shapes) -> dict[str, Program]:
    vision, batch = pretrained.config.vision, shapes.batch
    tiles = (batch, shapes.images, vision.tiles)
    inputs = {
        "pixels": _pixels(*tiles, side=vision.image_size),
        "tile_mask": _array(*tiles, dtype=jnp.bool_),
        "aspect_ratios": _array(batch, shapes.images),
    }
    count = shapes.images * vision.tiles
    looks = (
        {"media_allowed": _array(batch, shapes.length, count, dtype=jnp.bool_)},
        {"media_allowed": _array(batch, count, dtype=jnp.bool_)},
    )

    def look(inputs):
        allowed = inputs["media_allowed"]
        return {"media_allowed": jnp.repeat(allowed if allowed.ndim == 3 else allowed[:, None], vision.tokens, axis=2)}

    return _media_programs(pretrained, shapes, inputs, "encode", looks, look)


def _encoder_decoder_programs(pretrained, shapes) -> dict[str, Program]:
    inputs = {"pixels": _pixels(shapes.batch, shapes.images, side=pretrained.config.vision.image_size)}

    def look(inputs):
        length = inputs["tokens"].shape[1] if "tokens" in inputs else 1
        return {"media_index": jnp.ones((shapes.batch, length), jnp.int32)}

    return _media_programs(pretrained, shapes, inputs, "encode", ({}, {}), look)


def _media_programs(pretrained, shapes, inputs, method, looks, look) -> dict[str, Program]:
    """`looks`: what says at which media a token looks, of prefill and of decode; `look` makes arguments of it."""
    config, model = pretrained.config, pretrained.model()

    def encode(parameters, inputs):
        found = model.apply(nested(parameters), *inputs.values(), method=method)
        media = found[0] if isinstance(found, tuple) else found
        return {"features": media.features, "media_segments": media.segments}

    # The names are in the order of the method's arguments; what is traced has them by the alphabet.
    order = list(inputs)
    encoder = Program(lambda parameters, given: encode(parameters, {name: given[name] for name in order}), inputs)
    seen = _outputs(pretrained, encoder)
    more = {
        "prefill": {**seen, **looks[0]},
        "decode": {"media_segments": seen["media_segments"], **looks[1]},
    }

    def first(inputs):
        return {"media": Media(inputs["features"], inputs["media_segments"]), **look(inputs)}

    def later(inputs):
        return {"media": Media(None, inputs["media_segments"]), **look(inputs)}

    length, cross = seen["media_segments"].shape[1], getattr(config, "cross", None)
    rest = _text_programs(pretrained, shapes, config.decoder, cross, length, more, first, later)
    return {"encode": encoder, **rest}


def _outputs(pretrained: Pretrained, program: Program) -> dict[str, jax.ShapeDtypeStruct]:
    parameters = {path: _array(*leaf.shape, dtype=jnp.float32) for path, leaf in pretrained.parameters.items()}
    return jax.eval_shape(program.function, parameters, program.inputs)


# By the class of the model's config.
_KINDS: dict[type, Callable[[Pretrained, Shapes], dict[str, Program]]] = {
    ViTConfig: _vit_programs,
    ConvNeXtConfig: _convnext_programs,
    TextEncoderConfig: _text_encoder_programs,
    TwoTowerConfig: _two_tower_programs,
    DecoderConfig: _decoder_programs,
    InlineConfig: _inline_programs,
    FlamingoConfig: _flamingo_programs,
    MllamaConfig: _mllama_programs,
    EncoderDecoderConfig: _encoder_decoder_programs,
}
