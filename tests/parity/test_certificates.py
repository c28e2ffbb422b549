"""The certificate of every family, on random models: outputs, gradients, greedy tokens, and the way back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mmjax.interop.engine import export, load
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.parity.certificate import certify
from tests.parity.reference_models import calls_of, class_of, reopened
from third_party.oracles import FAMILIES, make
from third_party.oracles.folders import run

# The others need more than torch and transformers; their folders lie beside this file.
PACKAGED = [name for name, variants in FAMILIES.items() if variants[0].package == "transformers"]
KEPT = sorted(path.name for path in (Path(__file__).parent / "open_flamingo").iterdir())


@pytest.fixture
def folder(request, tmp_path):
    name, variant = request.param
    return make(name, tmp_path / "reference", variant=variant)


def check(folder, **options):
    certificate = certify(folder, **options)
    wrong = [result for result in certificate.results if result.problem is not None or not result.passed]
    assert not wrong, wrong[:5]
    return certificate


def as_id(case):
    return f"{case[0]}-{case[1]}"


ALL = [(name, variant) for name in PACKAGED for variant in range(len(FAMILIES[name]))]


@pytest.mark.parametrize("folder", ALL, ids=as_id, indirect=True)
def test_certificate(folder, tmp_path, quick_programs):
    """Also of what is written from our config alone: the reference opens it and gives its own outputs, bit for bit."""
    check(folder, gradients=True, roundtrip=True)
    export(dataclasses.replace(load(folder), origin=None), tmp_path / "fresh", max_shard_bytes=9000)
    assert len(list((tmp_path / "fresh").glob("*.safetensors"))) > 1
    model = reopened(tmp_path / "fresh", class_of(folder))
    outputs = np.load(folder / "outputs.npz")
    [call] = calls_of(folder, name="whole")
    for name, ours in run(model, call).items():
        assert np.array_equal(ours.detach(), outputs[f"whole/{name}"]), name


@pytest.mark.parametrize("name", KEPT)
def test_certificate_of_open_flamingo(name, quick_programs):
    check(Path(__file__).parent / "open_flamingo" / name, gradients=True, roundtrip=True)


@pytest.mark.parametrize(
    "folder",
    [("gemma2", 0), ("gpt_neox", 1), ("llava", 0), ("clip", 0), ("idefics", 0), ("mllama", 0), ("qwen2_5_vl", 0)],
    ids=as_id,
    indirect=True,
)
def test_sharded(folder, quick_programs):
    """The same with parameters read straight onto eight devices."""
    check(folder, mesh=make_mesh(MeshConfig(fsdp=2, tensor=2, data=2)))
