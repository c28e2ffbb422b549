"""Programs by `jax.export`: a process without mmjax writes the tokens that the model itself would write."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.interop.engine import Pretrained
from mmjax.interop.families import FAMILIES
from mmjax.interop.stablehlo import Shapes, export_stablehlo
from mmjax.layers.attention import AttentionConfig
from mmjax.models.connectors.projector import ProjectorConfig
from mmjax.models.connectors.resampler import ResamplerConfig
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.decoders.decoder import Inline
from mmjax.models.encoders.vit import ViTConfig
from mmjax.models.flamingo import Flamingo, FlamingoConfig, last_images
from mmjax.models.fusion.gated import GatedCrossAttentionConfig
from mmjax.models.inline import InlineConfig
from mmjax.parallel.sharding import nested
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


@pytest.mark.parametrize("make", [language, inline, flamingo])
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


def test_refusals(tmp_path):
    pretrained, _, _ = language()
    with pytest.raises(InputError, match="platforms must be of cpu, cuda, rocm, tpu, not gpu"):
        export_stablehlo(pretrained, tmp_path, platforms=("gpu",))
    with pytest.raises(InputError, match="new_tokens must be at least 1"):
        Shapes(new_tokens=0)
    (tmp_path / "signature.json").write_text("{}")
    with pytest.raises(InputError, match="is there already, and not empty"):
        export_stablehlo(pretrained, tmp_path)
    family = FAMILIES["vit"]
    picture = Pretrained(
        family, VISION, random_parameters(family.model(VISION, jnp.float32), 0, jnp.zeros((1, 8, 8, 3)))
    )
    with pytest.raises(InputError, match="no prefill and decode programs"):
        export_stablehlo(picture, tmp_path / "other")
    assert not (tmp_path / "other").exists()
