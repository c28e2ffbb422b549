"""The certificate of a family, on random models: outputs, gradients, greedy tokens, and the way back."""

from __future__ import annotations

import dataclasses

import numpy as np

from mmjax.interop.engine import export, load
from mmjax.parity.certificate import certify
from tests.parity.reference_models import calls_of, class_of, reopened
from third_party.oracles import make
from third_party.oracles.folders import run


def check(folder, **options):
    """Everything that the reference gives is there and within tolerance."""
    certificate = certify(folder, **options)
    wrong = [result for result in certificate.results if result.problem is not None or not result.passed]
    assert not wrong, wrong[:5]


def prove(name, variant, tmp_path):
    """Also of what is written from our config alone: the reference opens it and gives its own outputs, bit for bit."""
    folder = make(name, tmp_path / "reference", variant=variant)
    check(folder, gradients=True, roundtrip=True)
    export(dataclasses.replace(load(folder), origin=None), tmp_path / "fresh", max_shard_bytes=9000)
    assert len(list((tmp_path / "fresh").glob("*.safetensors"))) > 1
    model = reopened(tmp_path / "fresh", class_of(folder))
    outputs = np.load(folder / "outputs.npz")
    [call] = calls_of(folder, name="whole")
    for output, ours in run(model, call).items():
        assert np.array_equal(ours.detach(), outputs[f"whole/{output}"]), output


def variants(families):
    """Every variant of the families that need no more than torch and transformers."""
    packaged = [name for name in families if families[name][0].package == "transformers"]
    return [(name, variant) for name in packaged for variant in range(len(families[name]))]
