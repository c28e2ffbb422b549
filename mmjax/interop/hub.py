"""Checkpoints by the name of a model on a hub: the folder of its local copy, fetched where the network allows."""

from __future__ import annotations

import os
from pathlib import Path

from mmjax.core.errors import InputError
from mmjax.core.folders import local_path

# Weights without code, configs, tokenizers, and what a parity folder holds beside them.
_FETCHED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.npz"]


def find_source(source: str | Path) -> Path:
    """The folder of a source: itself, or the local copy of a hub model, fetched where the network allows.

    Raises:
      InputError: there is no such folder, and no such model can be fetched.
    """
    path = local_path(source)
    name = str(source)
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return path
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise InputError(
            f"{name} is not a folder here; to fetch it as a hub model, install huggingface_hub, "
            "or fetch it yourself and give the folder"
        ) from None
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "20")
    try:
        return Path(snapshot_download(name, allow_patterns=_FETCHED))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{name} is not a folder here, and cannot be fetched from the hub: {reason}") from None
