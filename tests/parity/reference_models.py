"""Models of the reference implementations: random ones, those of parity folders, and what tests ask of them."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mmjax.interop.engine import export
from third_party.oracles.variants import Call

torch = pytest.importorskip("torch", reason="the reference implementations need torch, which this Python does not have")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import transformers

    from third_party.oracles import hugging_face, open_flamingo

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def calls_of(folder: Path, **which: str) -> list[Call]:
    """The calls of a parity folder, read from its files."""
    inputs = np.load(folder / "inputs.npz")
    content = json.loads((folder / "oracle.json").read_text())
    return [
        Call(
            call["name"],
            {name.partition("/")[2]: inputs[name] for name in inputs if name.startswith(call["name"] + "/")},
            call["fn"],
            call["kw"],
        )
        for call in content["calls"]
        if all(call[key] == value for key, value in which.items())
    ]


def class_of(folder: Path) -> str:
    """The reference's class that made a parity folder."""
    return json.loads((folder / "oracle.json").read_text())["class"]


def reopened(folder: Path, class_name: str) -> torch.nn.Module:
    """The reference's class from a checkpoint; a tensor that is missing or left over is an error."""
    return (open_flamingo if class_name == "Flamingo" else hugging_face).reopen(class_name, folder)


def build(class_name: str, config_name: str, seed: int, **settings) -> torch.nn.Module:
    """A random model in evaluation mode, with plain (eager) attention."""
    from third_party.oracles.folders import randomize

    config = getattr(transformers, config_name)(**settings)
    config._attn_implementation = "eager"
    model = getattr(transformers, class_name)(config).eval()
    randomize(model, seed)
    return model


def relative_error(ours, reference) -> float:
    """Largest difference, in units of the largest number of the reference."""
    ours, reference = np.asarray(ours), np.asarray(reference)
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def check_export(model, pretrained, tmp_path, run):
    """As it came, every file the same; from our config alone, the reference still gives the same outputs."""
    export(pretrained, tmp_path / "back")
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("reference", "back"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], after[key]) for key in before)
    configs = [json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("reference", "back")]
    assert configs[0] == configs[1]

    export(dataclasses.replace(pretrained, origin=None), tmp_path / "fresh", max_shard_bytes=9000)
    assert len(list((tmp_path / "fresh").glob("*.safetensors"))) > 1
    again = reopened(tmp_path / "fresh", type(model).__name__)
    for ours, theirs in zip(run(again), run(model), strict=True):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)
