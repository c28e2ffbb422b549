"""Parameters of every named size, counted without making one: the published numbers to the last, Flamingo's parts."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from mmjax.core.batch import Batch
from mmjax.core.paths import part_of
from mmjax.interop.configs import read_config
from mmjax.interop.families import FAMILIES as INTEROP
from mmjax.models.decoders.decoder import Decoder
from mmjax.models.decoders.sizes import SIZES as DECODERS
from mmjax.models.encoders.sizes import SIZES as ENCODERS
from mmjax.models.encoders.vit import ViT
from mmjax.models.flamingo import PARTS, Flamingo, FlamingoConfig
from mmjax.models.sizes import FLAMINGO, INLINE, TWO_TOWER
from mmjax.parallel.sharding import abstract_parameters
from tests.interop.published_sizes import PUBLISHED

# As the model cards and checkpoints on the Hugging Face hub count them. Gemma-3 without its picture tower (416,866,032)
# and projector; pictures without classifiers.
DECODER_PARAMETERS = {
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "qwen2-0.5b": 494_032_768,
    "qwen2-1.5b": 1_543_714_304,
    "qwen2-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-1b": 999_885_952,
    "gemma-3-4b": 4_300_079_472 - 416_866_032 - 1152 * 2561,
    "gemma-3-12b": 12_187_325_040 - 416_866_032 - 1152 * 3841,
    "gemma-3-27b": 27_432_406_640 - 416_866_032 - 1152 * 5377,
    "mistral-7b": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "pythia-1.4b": 1_414_647_808,
    "pythia-2.8b": 2_775_208_960,
    "gpt-neox-20b": 20_554_567_680,
    "opt-125m": 125_239_296,
    "opt-1.3b": 1_315_758_080,
    "opt-6.7b": 6_658_473_984,
    "mpt-1b": 24 * (12 * 2048**2 + 4 * 2048) + (50_432 + 1) * 2048,  # from its config: two norms and two q/k norms
    "mpt-7b": 6_649_286_656,
    "llama-7b": 6_738_415_616,
    "llama-65b": 65_285_660_672,
    "vicuna-7b": 6_738_415_616,
}
ENCODER_PARAMETERS = {
    "Ti/16": 5_524_416,
    "S/16": 21_665_664,
    "B/16": 85_798_656,
    "L/16": 303_301_632,
    "H/14": 630_764_800,
    "g/14": 1_011_202_432,
    "CLIP-B/16": 85_799_424,
    "CLIP-L/14": 303_179_776,
    "CLIP-L/14-336": 303_507_456,
    "CLIP-H/14": 630_766_080,
    "SigLIP-B/16": 92_884_224,
    "SigLIP-L/16": 315_956_224,
    "So400m/14": 427_680_704,
    "So400m/14-384": 428_225_600,
    "DINOv2-B/14": 86_580_480,
    "DINOv2-L/14": 304_368_640,
    "DINOv2-g/14": 1_136_480_768,
    "DINOv2-L/14-registers": 304_372_736,
}
# Billions, by part: tables 1 and 5 of the Flamingo paper. The published picture encoder is another one (435M).
FLAMINGO_PARTS = {
    "flamingo-3b": {"language": 1.4, "resampler": 0.194, "cross_attention": 1.2},
    "flamingo-9b": {"language": 7.1, "resampler": 0.194, "cross_attention": 1.6},
    "flamingo-80b": {"language": 70.0, "resampler": 0.194, "cross_attention": 10.0},
}


def count(shapes) -> int:
    return sum(math.prod(shape.shape) for shape in shapes.values())


def integers(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


@pytest.mark.parametrize("name", [name for name in DECODERS if not name.startswith("chinchilla")])
def test_decoders(name):
    shapes, _ = abstract_parameters(Decoder(DECODERS[name]).init, jax.random.key(0), *[integers(1, 1)] * 3)
    assert count(shapes) == DECODER_PARAMETERS[name]


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name):
    size = ENCODERS[name].image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    shapes, _ = abstract_parameters(ViT(ENCODERS[name]).init, jax.random.key(0), image)
    assert count(shapes) == ENCODER_PARAMETERS[name]


def abstract_row(side):
    return Batch(
        *[integers(1, 2)] * 4,
        loss_weights=jax.ShapeDtypeStruct((1, 2), jnp.float32),
        media_index=integers(1, 2),
        images=jax.ShapeDtypeStruct((1, 1, side, side, 3), jnp.uint8),
        image_mask=jax.ShapeDtypeStruct((1, 1), jnp.bool_),
        dataset_ids=integers(1),
    )


@pytest.mark.parametrize("name", FLAMINGO_PARTS)
def test_flamingo_parts(name):
    """Each within 5% of the paper."""
    config = FLAMINGO[name]
    batch = abstract_row(config.vision.image_size)
    shapes, axes = abstract_parameters(Flamingo(config).init, jax.random.key(0), batch)
    assert all(len(axes[path]) == len(shape.shape) for path, shape in shapes.items())
    parts: dict[str, float] = {}
    for path, shape in shapes.items():
        part = part_of(path, PARTS)
        parts[part] = parts.get(part, 0.0) + math.prod(shape.shape) / 1e9
    for part, expected in FLAMINGO_PARTS[name].items():
        assert parts[part] == pytest.approx(expected, rel=0.05), part
    assert parts["vision"] == pytest.approx(0.435, rel=0.06)
    blocks = {"flamingo-3b": 24, "flamingo-9b": 10, "flamingo-80b": 12}[name]
    gates = [shape for path, shape in shapes.items() if path.endswith("attention_gate")]
    assert sum(shape.shape[0] if shape.shape else 1 for shape in gates) == blocks


# Our sizes and the published models whose configs they are.
PUBLISHED_AS = {
    "clip-l/14": (TWO_TOWER, "clip-vit-large-patch14"),
    "siglip-so400m/14-384": (TWO_TOWER, "siglip-so400m-patch14-384"),
    "llava-1.5-7b": (INLINE, "llava-1.5-7b"),
    "paligemma-3b": (INLINE, "paligemma-3b-pt-224"),
    "openflamingo-9b": (FLAMINGO, "OpenFlamingo-9B-vitl-mpt7b"),
    "idefics-9b": (FLAMINGO, "idefics-9b"),
}


def without_choices(config):
    """What a published config says: not where parameters start, what is recomputed, nor pixels that it leaves open."""
    if not dataclasses.is_dataclass(config):
        return config
    free = ("remat", "embedding_init", "scale_init", "gate_init")
    pixels = () if isinstance(config, FlamingoConfig) else ("image_mean", "image_std")
    fields = [field.name for field in dataclasses.fields(config) if field.name not in (*free, *pixels)]
    return {name: without_choices(getattr(config, name)) for name in fields}


@pytest.mark.parametrize("name", PUBLISHED_AS)
def test_whole_models_are_the_published_ones(name):
    """The same settings as the released config.json, whose number of parameters is tested with the layouts."""
    sizes, published = PUBLISHED_AS[name]
    said = PUBLISHED[published]
    family = INTEROP[said.config["model_type"]].resolve(said.config)
    theirs = family.canonical(read_config(family, said.config, said.detected))
    ours = family.canonical(sizes[name])
    if name == "openflamingo-9b":  # norms that are off have no kind
        ours = dataclasses.replace(ours, decoder=dataclasses.replace(ours.decoder, qk_norm_kind="layer"))
    assert without_choices(ours) == without_choices(theirs)


def test_idefics_80b_has_as_many_parameters_as_its_name_says():
    """80 billion, as published; of the 9B the number is known exactly."""
    config = FLAMINGO["idefics-80b"]
    shapes, _ = abstract_parameters(Flamingo(config).init, jax.random.key(0), abstract_row(config.vision.image_size))
    assert f"{count(shapes):.1e}" == "8.0e+10"
