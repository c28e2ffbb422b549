"""Parity folders: they hold what third_party/README.md says, and what they hold belongs together."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.parity.reference_models import calls_of, class_of, reopened
from third_party.oracles import FAMILIES, make
from third_party.oracles.folders import run
from third_party.oracles.rows import PAD

ROOT = Path(__file__).parents[2]
ALL = [(family, number) for family, variants in sorted(FAMILIES.items()) for number in range(len(variants))]


def check_layout(folder: Path) -> None:
    content = json.loads((folder / "oracle.json").read_text())
    inputs, outputs = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    parameters, gradients = load_file(folder / "model.safetensors"), load_file(folder / "grads.safetensors")
    assert json.loads((folder / "config.json").read_text())["model_type"]
    assert set(content) == {"reference", "class", "calls", "grads_of"}
    names = [call["name"] for call in content["calls"]]
    for arrays in (inputs, outputs):
        assert {name.partition("/")[0] for name in arrays} == set(names)
        assert all(arrays[name].dtype in (np.float32, np.int64, np.bool_) for name in arrays)
        assert all(np.isfinite(arrays[name]).all() for name in arrays)
    assert content["grads_of"] in outputs
    for call in content["calls"]:
        if call["fn"] == "generate":
            assert outputs[f"{call['name']}/sequences"].dtype == np.int64
            assert (folder / "generation_config.json").is_file()
    for name in inputs:
        if name.endswith(("/input_ids", "/lang_x")) and (mask := name.rpartition("/")[0] + "/attention_mask") in inputs:
            np.testing.assert_array_equal(inputs[name] == PAD, inputs[mask] == 0)

    assert {name: array.shape for name, array in parameters.items()} == {
        name: array.shape for name, array in gradients.items()
    }
    assert all(array.dtype == np.float32 for array in [*parameters.values(), *gradients.values()])
    assert all(array.min() < array.max() for array in parameters.values() if array.size > 1)
    assert all(array.all() for array in parameters.values() if array.size == 1)
    assert any(array.any() for array in gradients.values())


@pytest.mark.parametrize("family, number", [("llava", 1), ("bert", 0)])
def test_a_folder_has_its_layout(family, number, tmp_path):
    check_layout(make(family, tmp_path / "folder", number))


def test_a_seed_decides_the_folder(tmp_path):
    folders = [make("vit", tmp_path / name, seed=seed) for name, seed in [("a", 3), ("b", 3), ("c", 4)]]
    for name in ("inputs.npz", "outputs.npz"):
        first, again, other = (np.load(folder / name) for folder in folders)
        assert all(np.array_equal(first[key], again[key]) for key in first)
        assert not any(np.array_equal(first[key], other[key]) for key in first)
    first, again, other = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert not any(np.array_equal(first[key], other[key]) for key in first)


def test_the_command_lists_the_families_and_names_what_it_does_not_have():
    command = [sys.executable, "-m", "third_party.oracles"]
    listed = subprocess.run([*command, "--list"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in listed.splitlines()] == sorted(FAMILIES)
    wrong = subprocess.run([*command, "gpt5", "here"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 1 and "no family 'gpt5'; there are bert" in wrong.stderr
    with pytest.raises(ValueError, match="llava has the variants 0 to 2, not 3"):
        make("llava", "here", 3)


@pytest.mark.skipif(find_spec("open_flamingo") is not None, reason="OpenFlamingo is installed")
def test_a_reference_that_is_not_installed_is_named_with_the_command_that_installs_it(tmp_path):
    with pytest.raises(ImportError, match=r"pip install --no-deps open_flamingo==2\.0\.1 open_clip_torch"):
        make("open_flamingo", tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("family, number", ALL, ids=[f"{family}-{number}" for family, number in ALL])
def test_what_a_folder_holds_belongs_together(family, number, tmp_path):
    """The checkpoint, opened again, gives the outputs; and along the gradients the loss grows as they say."""
    if FAMILIES[family][number].package == "open_flamingo":
        pytest.importorskip("open_flamingo", reason="OpenFlamingo is not installed")
    folder = make(family, tmp_path / "folder", number, seed=1)
    check_layout(folder)
    outputs = np.load(folder / "outputs.npz")
    model = reopened(folder, class_of(folder))
    for call in calls_of(folder):
        for name, tensor in run(model, call).items():
            expected = outputs[f"{call.name}/{name}"]
            np.testing.assert_allclose(tensor.detach(), expected, rtol=0, atol=1e-5 * np.abs(expected).max(initial=0))

    name, _, key = json.loads((folder / "oracle.json").read_text())["grads_of"].partition("/")
    (call,) = calls_of(folder, name=name)
    parameters, gradients = load_file(folder / "model.safetensors"), load_file(folder / "grads.safetensors")
    square = sum(float(np.square(gradient, dtype=np.float64).sum()) for gradient in gradients.values())
    loss = float(np.square(outputs[f"{name}/{key}"], dtype=np.float64).mean())
    step = 2e-3 * loss / square
    losses = []
    for sign in (-1, 1):
        moved = {
            name: np.asarray(array + np.float32(sign * step) * gradients[name]) for name, array in parameters.items()
        }
        save_file(moved, folder / "model.safetensors", {"format": "pt"})
        losses.append(float(run(reopened(folder, class_of(folder)), call)[key].detach().double().square().mean()))
    assert losses[1] - losses[0] == pytest.approx(2 * step * square, rel=0.01)
