"""The classes of Hugging Face transformers as references."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import transformers

VERSION = f"transformers {transformers.__version__}"


def build(class_name: str, settings: Mapping[str, Any]) -> torch.nn.Module:
    """The class's model from its configuration, with plain (eager) attention, initialised as it initialises itself."""
    model_class = getattr(transformers, class_name)
    config = model_class.config_class(**copy.deepcopy(dict(settings)))
    config._attn_implementation = "eager"
    return model_class(config)


def save(model: torch.nn.Module, folder: Path) -> None:
    """Writes config.json, model.safetensors and, for what generates, generation_config.json."""
    model.save_pretrained(folder)


def reopen(class_name: str, folder: Path) -> torch.nn.Module:
    """The class's model from a checkpoint, with plain (eager) attention.

    Raises:
      ValueError: tensors are missing or left over.
    """
    model_class = getattr(transformers, class_name)
    model, report = model_class.from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
    if any(report.values()):
        raise ValueError(f"the checkpoint in {folder} does not fit {class_name}: {report}")
    return model.eval()
