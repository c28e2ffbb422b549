"""Models as StableHLO programs of fixed shapes: encode, prefill and decode, with a loader that needs jax alone.

OUT/NAME.stablehlo        a program by `jax.export`, serialized: for the platforms asked for, run by any JAX
OUT/parameters.safetensors  the parameters by path; every program takes those that it names, first
OUT/signature.json        shapes and types of what each program takes and gives
OUT/load.py               an example: greedy tokens from these files, without mmjax

  encode   (pixels)                                     -> features (and which picture each belongs to)
  prefill  (tokens, positions, segments, features, ...) -> logits of each row's last token, cache
  decode   (cache, token, position, place, ...)         -> logits, cache
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array
from mmjax.core.errors import InputError
from mmjax.core.folders import check_new, new_folder
from mmjax.interop.calls.adapters import logits_of
from mmjax.interop.engine import Pretrained
from mmjax.interop.tensors import write_folder
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.decoders.decoder import Inline, Media, empty_cache
from mmjax.models.encoders.vit import ViTConfig
from mmjax.models.flamingo import FlamingoConfig
from mmjax.models.inline import InlineConfig
from mmjax.ops.attention import default_backend
from mmjax.parallel.sharding import nested

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


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


def export_stablehlo(
    pretrained: Pretrained,
    folder: str | Path,
    *,
    platforms: Sequence[str] = ("cpu",),
    shapes: Shapes = Shapes(),  # noqa: B008 (frozen)
) -> list[str]:
    """Writes the programs of a model, its parameters and the example; returns the programs' names.

    Raises:
      InputError: an unknown platform, a model that has no such programs, or a folder that is not empty.
    """
    unknown = [name for name in platforms if name not in PLATFORMS]
    if unknown or not platforms:
        raise InputError(f"platforms must be of {', '.join(PLATFORMS)}, not {', '.join(unknown) or 'none'}")
    check_new(folder)
    programs = make_programs(pretrained, shapes)
    kept = {path: jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for path, leaf in pretrained.parameters.items()}
    signature: dict[str, Any] = {"shapes": dataclasses.asdict(shapes), "platforms": list(platforms), "programs": {}}
    with new_folder(folder) as made:
        for name, program in programs.items():
            used = _used(program, kept)
            with default_backend("xla"):  # a flash kernel is of one platform
                exported = jax.export.export(jax.jit(program.function), platforms=platforms)(used, program.inputs)
            (made / f"{name}.stablehlo").write_bytes(exported.serialize())
            outputs = jax.eval_shape(program.function, used, program.inputs)
            signature["programs"][name] = {
                "parameters": sorted(used),
                "inputs": {key: _described(value) for key, value in program.inputs.items()},
                "outputs": {key: _described(value) for key, value in outputs.items()},
            }
        write_folder(
            made,
            {path: leaf.shape for path, leaf in kept.items()},
            dict.fromkeys(kept, np.dtype(np.float32)),
            lambda path: np.asarray(pretrained.parameters[path]),
            2**62,
        )
        (made / "model.safetensors").rename(made / "parameters.safetensors")
        (made / "load.py").write_text(resources.files("mmjax.interop").joinpath("stablehlo_loader.py.txt").read_text())
        (made / "signature.json").write_text(json.dumps(signature, indent=2) + "\n")
    return list(programs)


def make_programs(pretrained: Pretrained, shapes: Shapes) -> dict[str, Program]:
    """The programs of a model, by name.

    Raises:
      InputError: it is neither a language model nor one that reads pictures in front of one.
    """
    config = pretrained.config
    if isinstance(config, DecoderConfig):
        return _text_programs(pretrained, shapes, config, None, 0, {}, lambda inputs: {}, lambda inputs: {})
    if isinstance(config, InlineConfig) and isinstance(config.vision, ViTConfig) and config.tiles is None:
        return _inline_programs(pretrained, shapes)
    if isinstance(config, FlamingoConfig):
        return _flamingo_programs(pretrained, shapes)
    raise InputError(
        f"a model of the family {pretrained.family.model_type} has no prefill and decode programs here; known are "
        "language models, those with pictures of one size in the text, and Flamingos"
    )


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
        return {"logits": logits_of(output.replace(hidden=hidden))} | dict(
            zip(named, jax.tree.leaves(output.cache), strict=True)
        )

    def prefill(parameters, inputs):
        empty = empty_cache(decoder, cross, batch=batch, length=total, media_length=media_length)
        places = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], (batch, length))
        output = run(
            parameters, inputs["tokens"], inputs["positions"], inputs["segments"], empty, places, first(inputs)
        )
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
    side = config.vision.image_size
    pixels = jax.ShapeDtypeStruct((shapes.batch * shapes.images, side, side, 3), jnp.float32)

    def encode(parameters, inputs):
        features, _ = model.apply(nested(parameters), inputs["pixels"], method="encode")
        return {"features": features.reshape(shapes.batch, -1, features.shape[-1])}

    encoder = Program(encode, {"pixels": pixels})
    features = jax.eval_shape(encode, _abstract(pretrained), encoder.inputs)["features"]

    def first(inputs):
        there = inputs["tokens"] == config.image_token
        index = jnp.where(there, jnp.cumsum(there, axis=1, dtype=jnp.int32), 0)
        blocks = None if config.sees == "past" else {"blocks": inputs["blocks"]}
        return {"inline": Inline(inputs["features"], index)} | (blocks or {})

    more = {"features": features}
    if config.sees != "past":
        more["blocks"] = jax.ShapeDtypeStruct((shapes.batch, shapes.length), jnp.int32)
    rest = _text_programs(pretrained, shapes, config.decoder, None, 0, {"prefill": more}, first, lambda inputs: {})
    return {"encode": encoder, **rest}


def _flamingo_programs(pretrained, shapes) -> dict[str, Program]:
    config, model = pretrained.config, pretrained.model()
    side = config.vision.image_size
    pixels = jax.ShapeDtypeStruct((shapes.batch, shapes.images, side, side, 3), jnp.float32)
    there = jax.ShapeDtypeStruct((shapes.batch, shapes.images), jnp.bool_)

    def encode(parameters, inputs):
        media = model.apply(nested(parameters), inputs["pixels"], inputs["image_mask"], method="encode_normalized")
        return {"features": media.features, "media_segments": media.segments}

    encoder = Program(encode, {"pixels": pixels, "image_mask": there})
    seen = jax.eval_shape(encode, _abstract(pretrained), encoder.inputs)
    looks = {
        "prefill": {**seen, "media_index": jax.ShapeDtypeStruct((shapes.batch, shapes.length), jnp.int32)},
        "decode": {
            "media_segments": seen["media_segments"],
            "media_index": jax.ShapeDtypeStruct((shapes.batch,), jnp.int32),
        },
    }

    def first(inputs):
        media = Media(inputs["features"], inputs["media_segments"])
        return {"media": media, "media_index": inputs["media_index"]}

    def later(inputs):
        return {"media": Media(None, inputs["media_segments"]), "media_index": inputs["media_index"][:, None]}

    length = seen["media_segments"].shape[1]
    return {
        "encode": encoder,
        **_text_programs(pretrained, shapes, config.decoder, config.cross, length, looks, first, later),
    }


def _abstract(pretrained: Pretrained) -> dict[str, jax.ShapeDtypeStruct]:
    return {path: jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for path, leaf in pretrained.parameters.items()}


def _used(program: Program, parameters) -> dict[str, jax.ShapeDtypeStruct]:
    """The parameters that a program reads; what nothing depends on need not be loaded for it."""
    traced = jax.make_jaxpr(program.function)(parameters, program.inputs)
    read = {variable for equation in traced.eqns for variable in equation.invars if not hasattr(variable, "val")}
    read |= {variable for variable in traced.jaxpr.outvars if not hasattr(variable, "val")}
    return {
        path: leaf
        for (path, leaf), variable in zip(sorted(parameters.items()), traced.jaxpr.invars, strict=False)
        if variable in read
    }


def _described(value) -> dict[str, Any]:
    return {"shape": list(value.shape), "dtype": str(value.dtype)}
