"""What the certificate must notice, and how it says so; on a parity folder that is kept beside this file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmjax.core.errors import InputError
from mmjax.parity.certificate import certify
from tests.cli.program import run_program

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture
def folder(tmp_path):
    """One call of a small OpenFlamingo."""
    shutil.copytree(Path(__file__).parent / "open_flamingo" / "0", tmp_path / "folder")
    edit_oracle(tmp_path / "folder", lambda content: content | {"calls": content["calls"][:1]})
    for name in ("inputs.npz", "outputs.npz"):
        edit_arrays(
            tmp_path / "folder" / name, lambda arrays: {k: v for k, v in arrays.items() if k.startswith("whole/")}
        )
    return tmp_path / "folder"


def edit_oracle(folder, change):
    path = folder / "oracle.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def edit_arrays(path, change):
    with np.load(path) as read:
        arrays = dict(read)
    np.savez(path, **change(arrays))


def edit_tensor(path, name, change):
    tensors = load_file(path)
    tensors[name] = change(tensors[name])
    save_file(tensors, path)


def failed(certificate):
    return [result for result in certificate.results if not result.passed]


def test_a_changed_weight_shows_in_outputs_and_gradients(folder):
    edit_tensor(folder / "model.safetensors", "perceiver.latents", lambda x: x * 1.01)
    certificate = certify(folder, gradients=True)
    assert not certificate.passed
    assert {(result.call, result.output) for result in failed(certificate)} > {("whole", "logits")}
    assert any(result.call == "gradient" for result in failed(certificate))


def test_a_changed_output_is_noticed_where_there_is_text_and_only_there(folder):
    def padded(arrays):
        mask = arrays["whole/attention_mask"]
        mask[0, -3:] = 0
        return arrays

    edit_arrays(
        folder / "outputs.npz", lambda arrays: {k: np.where(v == v.max(), v * 1.001, v) for k, v in arrays.items()}
    )
    [result] = certify(folder).results
    assert not result.passed and 2e-5 < result.relative < 2e-3 and result.argmax == 1.0 and result.compared == 1.0
    edit_arrays(folder / "inputs.npz", padded)
    [result] = certify(folder).results
    assert result.compared < 1.0


def test_a_changed_gradient_is_noticed(folder):
    edit_tensor(folder / "grads.safetensors", "perceiver.norm.bias", lambda x: x + 1e-3 * abs(x).max())
    [result] = failed(certify(folder, gradients=True))
    assert (result.call, result.output) == ("gradient", "perceiver.norm.bias") and result.relative > 1e-4


def test_gradients_by_other_names_prove_nothing(folder):
    path = folder / "grads.safetensors"
    save_file({f"module.{name}": tensor for name, tensor in load_file(path).items()}, path)
    problems = {result.problem for result in failed(certify(folder, gradients=True))}
    assert problems == {"of no tensor of the checkpoint", "not in grads.safetensors"}


def test_essential_outputs_must_be_there_and_others_need_not(folder):
    edit_arrays(folder / "outputs.npz", lambda arrays: arrays | {"whole/attentions.0": np.zeros((3, 2))})
    certificate = certify(folder)
    assert certificate.passed and [result.problem for result in certificate.results][1] == "not produced here"
    edit_arrays(folder / "outputs.npz", lambda arrays: arrays | {"whole/text_embeds": np.zeros((3, 2))})
    assert [result.output for result in failed(certify(folder))] == ["text_embeds"]
    edit_arrays(folder / "outputs.npz", lambda arrays: {"whole/logits": arrays["whole/logits"][:, 1:]})
    [result] = failed(certify(folder))
    edit_oracle(folder, lambda content: content | {"grads_of": None})
    edit_arrays(folder / "outputs.npz", lambda arrays: {"whole/logit": arrays["whole/logits"]})
    assert not failed(certify(folder)) and not certify(folder).passed  # nothing was compared
    assert result.problem.startswith("has shape [3, 16, 59], not [3, 15, 59]")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda call: call | {"fn": "encode"}, "encode is not known of the family open_flamingo; known are: forward"),
        (
            lambda call: call | {"fn": "generate", "kw": {"max_new_tokens": 3, "penalty_alpha": 0.6}},
            r"generate knows nothing of \{'penalty_alpha': 0.6\} here",
        ),
        (lambda call: call | {"fn": "generate", "kw": {"max_new_tokens": 0}}, "at least one token, not 0"),
        (lambda call: {"fn": "forward"}, "has no name"),
        (lambda call: call | {"name": "other"}, r"outputs.npz has no output of the call 'other'"),
    ],
)
def test_calls_that_cannot_be_made(folder, change, message):
    edit_oracle(folder, lambda content: content | {"calls": [change(content["calls"][0])], "grads_of": None})
    with pytest.raises(InputError, match=message):
        certify(folder)


def test_folders_that_are_none(folder):
    with pytest.raises(InputError, match="grads_of='whole/loss', which is no output"):
        edit_oracle(folder, lambda content: content | {"grads_of": "whole/loss"})
        certify(folder)
    edit_oracle(folder, lambda content: content | {"grads_of": "logits"})
    (folder / "grads.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no grads\.safetensors"):
        certify(folder, gradients=True)
    (folder / "outputs.npz").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match=r"outputs\.npz cannot be read as arrays"):
        certify(folder)
    (folder / "oracle.json").unlink()
    with pytest.raises(InputError, match=r"oracle\.json is missing; a parity folder holds"):
        certify(folder)


def test_the_verb(folder, tmp_path):
    code, said, error = run_program("parity", str(folder), "--roundtrip", "--save", str(tmp_path / "ours.npz"))
    assert code == 0, error
    assert said.splitlines()[:2] == ["family: open_flamingo", "reference: open_flamingo 2.0.1 Flamingo"]
    assert said.splitlines()[-1] == "passed: all within tolerance"
    ours, theirs = np.load(tmp_path / "ours.npz"), np.load(folder / "outputs.npz")
    assert set(ours) == set(theirs) and np.allclose(ours["whole/logits"], theirs["whole/logits"], atol=1e-4)
    edit_arrays(folder / "outputs.npz", lambda arrays: {name: x + 1 for name, x in arrays.items()})
    code, said, error = run_program(
        "parity", str(folder), "--mesh", "data=2,fsdp=4", "--simulate-devices", "8", "--json"
    )
    record = json.loads(said)
    assert code == 1 and not record["passed"] and [row["output"] for row in record["rows"]] == ["logits"]
    code, _, error = run_program("parity", str(folder), "--mesh", "model=2")
    assert code == 2 and "--mesh must be like fsdp=2,tensor=2" in error
