"""Small random models of Hugging Face transformers, and what the parity tests ask of them."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mmjax.interop.engine import export

torch = pytest.importorskip("torch", reason="the reference implementations need torch, which this Python does not have")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import transformers


transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Moves every parameter away from its start, zeros and ones included, by steps of its own size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            width = parameter.shape[-1] if parameter.ndim > 1 else 16
            parameter.add_(noise * width**-0.5)


def build(class_name: str, config_name: str, seed: int, **settings) -> torch.nn.Module:
    """A random model in evaluation mode, with plain (eager) attention."""
    config = getattr(transformers, config_name)(**settings)
    config._attn_implementation = "eager"
    model = getattr(transformers, class_name)(config).eval()
    randomize(model, seed)
    return model


def reopen(model: torch.nn.Module, folder: Path) -> torch.nn.Module:
    """The same class from a folder; what transformers finds odd about the folder fails the test."""
    again, report = type(model).from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
    assert not any(report.values()), report
    return again.eval()


def save_gradients(model: torch.nn.Module, folder: Path) -> None:
    """Writes the gradients that `model` has gathered as if they were its parameters, under the names of its files."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    model.save_pretrained(folder)


def relative_error(ours, reference) -> float:
    """Largest difference, in units of the largest number of the reference."""
    ours, reference = np.asarray(ours), np.asarray(reference)
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def gradient_error(ours, reference) -> float:
    """The worst relative error; where a gradient is nothing but rounding (a key's bias), relative to the others."""
    assert ours.keys() == reference.keys()
    largest = max(float(np.abs(gradient).max()) for gradient in reference.values())
    return max(
        float(np.abs(ours[path] - reference[path]).max() / np.maximum(np.abs(reference[path]).max(), 1e-2 * largest))
        for path in ours
    )


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
    for ours, theirs in zip(run(reopen(model, tmp_path / "fresh")), run(model), strict=True):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)
