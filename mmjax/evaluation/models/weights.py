"""What stands for the weights of a model: the same digest wherever they lie, another one when they change."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from etils import epath

from mmjax.checkpoints.folder import step_folder
from mmjax.checkpoints.manifest import read_manifest

_READ = 1 << 24


def digest_of_step(workdir: Path, step: int) -> str:
    """Of the checksums of all leaves of a saved step."""
    leaves = read_manifest(step_folder(epath.Path(workdir) / "checkpoints", step)).leaves
    return _short(json.dumps({path: leaf.checksum for path, leaf in sorted(leaves.items())}).encode())


def digest_of_folder(folder: Path) -> str:
    """Of the contents of config.json, preprocessor_config.json and the weights of a folder."""
    state = hashlib.blake2b(digest_size=12)
    for path in sorted([*folder.glob("*config.json"), *folder.glob("*.safetensors")]):
        state.update(path.name.encode())
        with open(path, "rb") as file:
            while part := file.read(_READ):
                state.update(part)
    return state.hexdigest()


def _short(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=12).hexdigest()
