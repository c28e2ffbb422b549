"""Models of the reference implementations: random ones, those of parity folders, and what tests ask of them."""

from __future__ import annotations

import dataclasses
import json
import logging
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
    """The reference's class from a checkpoint; a tensor missing or left over is an error, and so is a warning.

    What the class says of its own defaults, whatever the folder (SigLIP's tokens are not in its vocabulary), is none.
    """
    reference = open_flamingo if class_name == "Flamingo" else hugging_face
    config_class = getattr(getattr(transformers, class_name, None), "config_class", None)
    anyway = [] if config_class is None or class_name in _OF_PARTS else _said(config_class)[1]
    model, said = _said(lambda: reference.reopen(class_name, folder))
    said = [message for message in said if message not in anyway]
    assert not said, said
    return model


_OF_PARTS = ("VisionEncoderDecoderModel",)  # whose config has no defaults


def _said(do):
    """What `do` gives, and what transformers logs meanwhile as a warning or worse."""
    transformers.logging.set_verbosity_warning()
    logging.Logger.warning_once.cache_clear()  # what it has said before it would not say again
    said, logger = _Said(), logging.getLogger("transformers")
    logger.addHandler(said)
    try:
        return do(), said.records
    finally:
        logger.removeHandler(said)
        transformers.logging.set_verbosity_error()


class _Said(logging.Handler):
    """Keeps what is logged as a warning or worse."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.records: list[str] = []

    def emit(self, record):
        self.records.append(record.getMessage())


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
