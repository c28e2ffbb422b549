"""Certificates of what is kept beside this file, as its reference is no plain package; and of every family sharded, and
through its cache."""

from pathlib import Path

import jax
import pytest

from mmjax.interop.calls.caller import Caller
from mmjax.interop.engine import load
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.parity.certificate import compare_cached
from mmjax.parity.folder import read_oracle
from tests.parity.certificates import check
from third_party.oracles import FAMILIES, cross, decoders, inline, make

KEPT = Path(__file__).parent / "open_flamingo"
# Of each family the variant of which most can be split in two: the first where it is not one of these.
SECOND = (
    *("llava", "blip_2", "siglip", "siglip2", "vit", "bert", "opt", "vision_encoder_decoder"),
    *("clip_text_model", "siglip_text_model", "siglip2_text_model"),
    *("siglip_vision_model", "siglip2_vision_model", "blip_2_vision_model", "instructblip_vision_model"),
)
GRADIENTS = ("gemma2", "clip", "llava")
SHARE = 0.5  # of the bytes of the parameters must be split; the sizes of these models are odd
QUICK_SHARDED = ("gemma2", "clip", "idefics")
WRITING = [*decoders.FAMILIES.keys() - {"bert"}, *inline.FAMILIES, *cross.FAMILIES, "vision_encoder_decoder"]
QUICK_CACHED = ("gemma2", "qwen2_5_vl", "vision_encoder_decoder")


def folder_of(name, tmp_path):
    """The family's parity folder: made, or kept."""
    variant = int(name in SECOND)
    return KEPT / str(variant) if name == "open_flamingo" else make(name, tmp_path, variant=variant)


def some(names, quick):
    """The quick ones for every run of the tests, and the others for the slow ones."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in sorted(names)]


@pytest.mark.parametrize("name", sorted(path.name for path in KEPT.iterdir()))
def test_open_flamingo(name, quick_programs):
    check(KEPT / name, gradients=True, roundtrip=True, cached=True)


@pytest.mark.parametrize("name", some(FAMILIES, QUICK_SHARDED))
def test_sharded(name, tmp_path, quick_programs):
    """The same with parameters read straight onto eight devices, and most of them in parts."""
    folder, mesh = folder_of(name, tmp_path), make_mesh(MeshConfig(fsdp=2, tensor=2, data=2))
    parameters = load(folder, mesh=mesh).parameters.values()
    split = sum(leaf.nbytes for leaf in parameters if not leaf.sharding.is_fully_replicated)
    assert split > SHARE * sum(leaf.nbytes for leaf in parameters)
    check(folder, mesh=mesh, gradients=name in GRADIENTS)


@pytest.mark.parametrize("name", some(WRITING, QUICK_CACHED))
def test_cached(name, tmp_path, quick_programs):
    """Half of each row token by token through the cache: the logits of the whole."""
    folder = folder_of(name, tmp_path)
    with jax.default_matmul_precision("highest"):
        [result] = compare_cached(Caller(load(folder)), read_oracle(folder).calls)
    assert result.passed and result.argmax == 1.0 and result.compared > 0.2, result
