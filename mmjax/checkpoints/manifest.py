"""The manifest of a step: what was saved, at which data position, by which versions, and its checksums."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import platform
from typing import Any

from etils import epath

from mmjax import __version__
from mmjax.core.errors import CheckpointError, InputError

FILE_NAME = "manifest.json"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class LeafRecord:
    """Shape, dtype and checksum (16 hexadecimal digits) of one saved leaf."""

    shape: tuple[int, ...]
    dtype: str
    checksum: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What belongs to a saved step beside its arrays. It is written last: a step without one is unfinished."""

    step: int
    leaves: dict[str, LeafRecord]
    position: dict[str, int]
    config: dict[str, Any]
    metrics: dict[str, float]
    versions: dict[str, str]

    def write(self, folder: epath.Path) -> None:
        """Writes the manifest into the step's folder, in one move."""
        body = dataclasses.asdict(self)
        for record in body["leaves"].values():
            record["shape"] = list(record["shape"])
        body = {"format": _FORMAT, **body}
        unfinished = folder / f"{FILE_NAME}.unfinished"
        unfinished.write_text(json.dumps({**body, "checksum": _digest(body)}, indent=1))
        unfinished.replace(folder / FILE_NAME)


def read_manifest(folder: epath.Path) -> Manifest:
    """Reads and verifies the manifest of a step's folder.

    Raises:
      CheckpointError: it is missing, unreadable, or not as it was written.
    """
    path = folder / FILE_NAME
    try:
        body = json.loads(path.read_text())
        checksum = body.pop("checksum")
        intact = checksum == _digest(body)
    except FileNotFoundError:
        raise CheckpointError(f"{FILE_NAME} is missing: the save was cut short, or the file was removed") from None
    except (ValueError, KeyError, AttributeError):
        intact = False
    if not intact:
        raise CheckpointError(f"{FILE_NAME} is damaged: its contents do not match its checksum")
    if body.pop("format") != _FORMAT:
        raise CheckpointError(f"{path} was written by another version of mmjax; read it with that version")
    leaves = {
        name: LeafRecord(tuple(record["shape"]), record["dtype"], record["checksum"])
        for name, record in body.pop("leaves").items()
    }
    return Manifest(leaves=leaves, **body)


def clean_metrics(metrics: dict[str, float]) -> dict[str, float]:
    """Metrics as plain floats; one that is not finite is left out, since it can be nobody's best."""
    values = {name: float(value) for name, value in metrics.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def clean_record(record: dict[str, Any], what: str) -> dict[str, Any]:
    """A copy of `record` as JSON gives it back.

    Raises:
      InputError: it holds something that JSON cannot.
    """
    try:
        return json.loads(json.dumps(record, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"the {what} cannot be kept in a checkpoint: {error}") from None


def current_versions() -> dict[str, str]:
    """Versions of what writes the checkpoint."""
    packages = {"jax": "jax", "flax": "flax", "orbax": "orbax-checkpoint"}
    installed = {name: importlib.metadata.version(package) for name, package in packages.items()}
    return {"mmjax": __version__, **installed, "python": platform.python_version()}


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
