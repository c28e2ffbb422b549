"""Programs by `jax.export`: a process without mmjax writes the tokens that the model itself would write."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.interop.calls.caller import find_method, plain
from mmjax.interop.engine import Pretrained
from mmjax.interop.families import FAMILIES
from mmjax.interop.programs import Shapes, make_programs
from mmjax.interop.stablehlo import export_stablehlo
from mmjax.layers.attention import AttentionConfig
from mmjax.models.connectors.projector import ProjectorConfig
from mmjax.models.connectors.q_former import QFormerConfig
from mmjax.models.connectors.resampler import ResamplerConfig
from mmjax.models.connectors.tiles import TilesConfig
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.decoders.decoder import Inline
from mmjax.models.encoder_decoder import EncoderDecoderConfig
from mmjax.models.encoders.convnext import ConvNeXtConfig
from mmjax.models.encoders.text import TextEncoderConfig
from mmjax.models.encoders.tiled_vit import TiledViTConfig
from mmjax.models.encoders.vit import ViTConfig
from mmjax.models.flamingo import Flamingo, FlamingoConfig, last_images
from mmjax.models.fusion.gated import GatedCrossAttentionConfig
from mmjax.models.inline import InlineConfig
from mmjax.models.mllama import MllamaConfig
from mmjax.models.two_tower import TwoTowerConfig
from mmjax.parallel.sharding import abstract_parameters, nested
from tests.models.plain_numpy import random_parameters
from tests.quick import quick_jit

BATCH, LENGTH, NEW, IMAGE = 2, 9, 4, 30
VISION = ViTConfig(8, 4, 12, 1, 3, 20)
DECODER = DecoderConfig(32, 16, 3, 4, 4, 24, kv_heads=2)
CROSS = GatedCrossAttentionConfig(AttentionConfig(2, 8), 24, every=2, gate_init=0.7)
RESAMPLER = ResamplerConfig(12, 1, 2, 6, 3, 20)


def text():
    """Two rows, the second padded on the left; image tokens in both."""
    tokens = np.random.default_rng(0).integers(3, 29, (BATCH, LENGTH)).astype(np.int32)
    segments = np.ones_like(tokens)
    segments[1, :3] = 0
    tokens[0, 1:5], tokens[1, 4:8] = IMAGE, IMAGE
    return tokens, segments


def naive(logits_of):
    """Greedy tokens from whole forward passes over longer and longer rows."""
    tokens, segments = text()
    for _ in range(NEW):
        positions = np.maximum(np.cumsum(segments, 1) - 1, 0).astype(np.int32)
        chosen = np.argmax(logits_of(tokens, positions, segments)[:, -1], axis=-1).astype(np.int32)
        tokens = np.concatenate([tokens, chosen[:, None]], axis=1)
        segments = np.concatenate([segments, np.ones((BATCH, 1), np.int32)], axis=1)
    return tokens[:, LENGTH:]


def language():
    family = FAMILIES["llama"]
    model, one = family.model(DECODER, jnp.float32), jnp.zeros((1, 1), jnp.int32)
    parameters = random_parameters(model, 1, one, one, one)

    def logits_of(*arrays):
        output = model.apply(nested(parameters), *arrays)
        return output.hidden @ output.unembedding.T

    return Pretrained(family, DECODER, parameters), {}, logits_of


def inline():
    config = InlineConfig(VISION, ProjectorConfig(16, 16), DECODER, IMAGE)
    family = FAMILIES["llava"]
    model, one = family.model(config, jnp.float32), jnp.zeros((1, 1), jnp.int32)
    parameters = random_parameters(model, 2, jnp.zeros((1, 1, 8, 8, 3)), one, one, one)
    pixels = np.random.default_rng(1).normal(size=(BATCH, 8, 8, 3)).astype(np.float32)

    def logits_of(tokens, *arrays):
        features, _ = model.apply(nested(parameters), pixels, method="encode")
        index = jnp.where(tokens == IMAGE, jnp.cumsum(tokens == IMAGE, axis=1, dtype=jnp.int32), 0)
        output = model.apply(nested(parameters), tokens, *arrays, inline=Inline(features, index), method="decode")
        return output.hidden @ output.unembedding.T

    return Pretrained(family, config, parameters), {"pixels": pixels}, logits_of


def flamingo():
    config = FlamingoConfig(VISION, RESAMPLER, DECODER, CROSS, project_media=True)
    model = Flamingo(config, jnp.float32)
    pixels = np.random.default_rng(1).normal(size=(BATCH, 1, 8, 8, 3)).astype(np.float32)
    mask = np.ones((BATCH, 1), bool)
    tokens, _ = text()

    def whole(model, pixels, mask, tokens, positions, segments):
        media = model.encode_normalized(pixels, mask)
        return model.decode(tokens, positions, segments, media, jnp.minimum(last_images(tokens, IMAGE), 1))

    parameters = random_parameters(model, 3, *FAMILIES["open_flamingo"].inputs(config))

    def logits_of(*arrays):
        output = model.apply(nested(parameters), pixels, mask, *arrays, method=whole)
        return output.hidden @ output.unembedding.T

    looks = np.minimum(np.cumsum(tokens == IMAGE, axis=1), 1).astype(np.int32)
    more = {"pixels": pixels, "image_mask": mask, "media_index": looks}
    return Pretrained(FAMILIES["open_flamingo"], config, parameters), more, logits_of


def encoder_decoder():
    words = dataclasses.replace(DECODER, encoder_attention=True)
    config = EncoderDecoderConfig(VISION, words, start_token=1, pad_token=0)
    family = FAMILIES["vision-encoder-decoder"]
    model = family.model(config, jnp.float32)
    parameters = random_parameters(model, 4, *map(zeros, family.inputs(config)))
    pixels = np.random.default_rng(1).normal(size=(BATCH, 1, 8, 8, 3)).astype(np.float32)

    def logits_of(tokens, *arrays):
        media, _ = model.apply(nested(parameters), pixels, method="encode")
        looks = {"media": media, "media_index": jnp.ones(tokens.shape, jnp.int32)}
        output = model.apply(nested(parameters), tokens, *arrays, method="decode", **looks)
        return output.hidden @ output.unembedding.T

    return Pretrained(family, config, parameters), {"pixels": pixels}, logits_of


def mllama():
    vision = TiledViTConfig(8, 4, 12, 2, 1, 2, 20, 2, ((1, 1), (1, 2)), taps=(0,))
    config = MllamaConfig(vision, dataclasses.replace(DECODER, tied_embeddings=False), CROSS, IMAGE)
    family = FAMILIES["mllama"]
    model = family.model(config, jnp.float32)
    parameters = random_parameters(model, 5, *map(zeros, family.inputs(config)))
    pixels = np.random.default_rng(1).normal(size=(BATCH, 1, 2, 8, 8, 3)).astype(np.float32)
    seen = {"tile_mask": np.array([[[True, True]], [[True, False]]]), "aspect_ratios": np.array([[2], [1]], np.int32)}
    tokens, _ = text()
    looks = (np.cumsum(tokens == IMAGE, axis=1) > 0)[..., None] & seen["tile_mask"]

    def logits_of(tokens, *arrays):
        media = model.apply(nested(parameters), pixels, *seen.values(), method="encode")
        every = np.pad(looks, ((0, 0), (0, tokens.shape[1] - LENGTH), (0, 0)), mode="edge")
        allowed = jnp.repeat(jnp.asarray(every), vision.tokens, axis=2)
        output = model.apply(nested(parameters), tokens, *arrays, media=media, media_allowed=allowed, method="decode")
        return output.hidden @ output.unembedding.T

    return Pretrained(family, config, parameters), {"pixels": pixels, "media_allowed": looks, **seen}, logits_of


def zeros(shape):
    return jnp.zeros(shape.shape, shape.dtype)


@pytest.mark.parametrize(
    "make", [language, inline, flamingo, encoder_decoder, pytest.param(mllama, marks=pytest.mark.slow)]
)
def test_a_process_without_mmjax_writes_the_same_tokens(make, tmp_path):
    pretrained, more, logits_of = make()
    shapes = Shapes(batch=BATCH, length=LENGTH, new_tokens=NEW)
    names = export_stablehlo(pretrained, tmp_path / "out", platforms=("cpu", "tpu", "cuda"), shapes=shapes)
    assert names == [*(["encode"] if more else []), "prefill", "decode"]
    tokens, segments = text()
    np.savez(tmp_path / "inputs.npz", tokens=tokens, segments=segments, **more)
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    script = (tmp_path / "out" / "load.py").read_text()
    assert "mmjax" not in script.split('"""')[2]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "out" / "load.py"), str(tmp_path / "inputs.npz")],
        capture_output=True, text=True, env=clean, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    written = np.array([[int(token) for token in line.split()] for line in done.stdout.splitlines()])
    assert np.array_equal(written, naive(quick_jit(logits_of)))
    signature = json.loads((tmp_path / "out" / "signature.json").read_text())
    assert signature["platforms"] == ["cpu", "tpu", "cuda"]
    if more:  # what encodes pictures needs no words
        assert not any(path.startswith("decoder/") for path in signature["programs"]["encode"]["parameters"])


def of_family(name, config):
    """A random model."""
    family, random = FAMILIES[name], np.random.default_rng(0)
    init = family.model(config, jnp.float32).init
    shapes, _ = abstract_parameters(init, jax.random.key(0), *family.inputs(config))
    parameters = {path: jnp.asarray(0.3 * random.normal(size=leaf.shape), jnp.float32) for path, leaf in shapes.items()}
    return Pretrained(family, config, parameters)


def run(pretrained, program, **inputs):
    return quick_jit(program.function)(pretrained.parameters, inputs)


def test_what_a_picture_is_asked_and_which_of_it_is_padding():
    """Both are inputs of `encode`, and change what it gives; without them it would be silently wrong."""
    shapes, pixels = Shapes(length=5), np.random.default_rng(1).normal(size=(1, 8, 8, 3)).astype(np.float32)
    asks = QFormerConfig(16, queries=2, query_width=12, layers=2, heads=2, mlp_width=20, vocab_size=9, max_length=7)
    asked = of_family("instructblip", InlineConfig(VISION, asks, DECODER, IMAGE))
    encode = make_programs(asked, shapes)["encode"]
    assert encode.inputs["question"].shape == (1, 5)
    one = {"pixels": pixels, "question_present": np.ones((1, 5), bool)}
    found = [run(asked, encode, question=np.full((1, 5), word, np.int32), **one)["features"] for word in (3, 4)]
    assert float(jnp.abs(found[0] - found[1]).max()) > 1e-3
    vision = dataclasses.replace(VISION, position_resize="fraction")
    bordered = of_family("idefics3", InlineConfig(vision, ProjectorConfig(16, 16), DECODER, IMAGE))
    encode = make_programs(bordered, shapes)["encode"]
    masks = np.ones((1, 4), bool), np.array([[True, True, False, False]])
    found = [run(bordered, encode, pixels=pixels, patches_present=mask)["features"] for mask in masks]
    assert float(jnp.abs(found[0][:, 0] - found[1][:, 0]).max()) > 1e-3


def test_encoders_alone(tmp_path):
    """A pair of towers, whose texts are as long as there are positions; their files run without mmjax."""
    words = dataclasses.replace(DECODER, positions="learned", max_length=6)
    pair = TwoTowerConfig(
        dataclasses.replace(VISION, class_token=True, pool="class", projection=5),
        TextEncoderConfig(words, "last", projection=5),
    )
    pretrained = of_family("clip", pair)
    names = export_stablehlo(pretrained, tmp_path / "out", shapes=Shapes(batch=BATCH, length=LENGTH))
    assert names == ["encode_images", "encode_text"]
    tokens, segments = (array[:, :6] for array in text())
    pixels = np.random.default_rng(1).normal(size=(BATCH, 8, 8, 3)).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", tokens=tokens, segments=segments, pixels=pixels)
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "out" / "load.py"), str(tmp_path / "inputs.npz"), str(tmp_path / "out.npz")],
        capture_output=True, text=True, env=clean, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    places = jnp.broadcast_to(jnp.arange(6, dtype=jnp.int32)[None], tokens.shape)
    expected = pretrained.model().apply(nested(pretrained.parameters), pixels, tokens, places, segments)
    found = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(found["encode_images.image_embeddings"], expected.image_embeddings, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["encode_text.text_embeddings"], expected.text_embeddings, rtol=1e-4, atol=1e-5)


def vit_alone():
    config = dataclasses.replace(VISION, class_token=True, pool="class", projection=5)
    pixels = np.random.default_rng(1).normal(size=(BATCH, 8, 8, 3)).astype(np.float32)
    return of_family("vit", config), {"pixels": pixels}, {"pixel_values": np.moveaxis(pixels, -1, 1)}


def convnext_alone():
    pixels = np.random.default_rng(1).normal(size=(BATCH, 224, 224, 3)).astype(np.float32)
    pretrained = of_family("convnext", ConvNeXtConfig((1, 1), (6, 8), patch_size=16, projection=5))
    return pretrained, {"pixels": pixels}, {"pixel_values": np.moveaxis(pixels, -1, 1)}


def bert_alone():
    words = dataclasses.replace(DECODER, positions="learned", max_length=LENGTH, causal=False, token_types=2)
    tokens, segments = text()
    pretrained = of_family("bert", TextEncoderConfig(words, "first", projection=16))
    return pretrained, {"tokens": tokens, "segments": segments}, {"input_ids": tokens, "attention_mask": segments}


@pytest.mark.parametrize("make", [vit_alone, convnext_alone, bert_alone])
def test_one_encoder_alone(make, tmp_path):
    """Its file gives what a call by the reference's names does."""
    pretrained, inputs, arguments = make()
    shapes = Shapes(batch=BATCH, length=LENGTH)
    assert export_stablehlo(pretrained, tmp_path / "out", shapes=shapes) == ["encode"]
    program = jax.export.deserialize(bytearray((tmp_path / "out" / "encode.stablehlo").read_bytes()))
    signature = json.loads((tmp_path / "out" / "signature.json").read_text())["programs"]["encode"]
    found = program.call({path: pretrained.parameters[path] for path in signature["parameters"]}, inputs)
    expected = plain(find_method(pretrained, "forward")(pretrained, pretrained.parameters, arguments, {}))
    hidden = np.asarray(expected["last_hidden_state"])
    hidden = np.moveaxis(hidden, 1, -1) if hidden.ndim == 4 else hidden
    there = arguments.get("attention_mask", np.ones(hidden.shape[:2])).astype(bool)
    np.testing.assert_allclose(found["last_hidden_state"][there], hidden[there], rtol=1e-4, atol=1e-4)
    assert found["projected"].shape[0] == BATCH and np.abs(found["projected"]).max() > 1e-3


def test_refusals(tmp_path):
    pretrained, _, _ = language()
    with pytest.raises(InputError, match="platforms must be of cpu, cuda, rocm, tpu, not gpu"):
        export_stablehlo(pretrained, tmp_path, platforms=("gpu",))
    with pytest.raises(InputError, match="new_tokens must be at least 1"):
        Shapes(new_tokens=0)
    (tmp_path / "signature.json").write_text("{}")
    with pytest.raises(InputError, match="is there already, and not empty"):
        export_stablehlo(pretrained, tmp_path)
    tiles = TilesConfig(((8, 16), (16, 8)))
    tiled = Pretrained(
        FAMILIES["llava_next"], InlineConfig(VISION, ProjectorConfig(16, 16), DECODER, IMAGE, tiles=tiles), {}
    )
    with pytest.raises(InputError, match="llava_next read pictures in a number of tiles that differs"):
        export_stablehlo(tiled, tmp_path / "other")
    assert not (tmp_path / "other").exists()
