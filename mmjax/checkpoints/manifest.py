"""The manifest of a step: what was saved, at which data position, by which versions, and its checksums."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from mmjax import __version__
from mmjax.core.errors import CheckpointError, InputError

FILE_NAME = "manifest.json"
_UNFINISHED = f"{FILE_NAME}.unfinished"
_FORMAT = 1
_HASHED_BYTES = 2**16


@dataclasses.dataclass(frozen=True)
class LeafRecord:
    """Shape, dtype and checksum (16 hexadecimal digits) of one saved leaf."""

    shape: tuple[int, ...]
    dtype: str
    checksum: str


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """Size of one file of a step, and its SHA-256 if it is small: the large ones hold arrays, which have checksums."""

    bytes: int
    sha256: str | None


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What belongs to a saved step beside its arrays. It is written last: a step without one is unfinished."""

    step: int
    leaves: dict[str, LeafRecord]
    files: dict[str, FileRecord]
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
        unfinished = folder / _UNFINISHED
        unfinished.write_text(_text_of(body))
        unfinished.replace(folder / FILE_NAME)


def read_manifest(folder: epath.Path) -> Manifest:
    """Reads and verifies the manifest of a step's folder.

    Raises:
      CheckpointError: it is missing, unreadable, or not as it was written.
      InputError: it is intact, and of a format that this version does not know.
    """
    path = folder / FILE_NAME
    try:
        text = path.read_text()
        body = json.loads(text)
        body.pop("checksum", None)
        intact = text == _text_of(body)
    except FileNotFoundError:
        raise CheckpointError(f"{FILE_NAME} is missing: the save was cut short, or the file was removed") from None
    except (ValueError, TypeError, AttributeError):  # not text, not JSON, or not an object
        intact = False
    if not intact:
        raise CheckpointError(f"{FILE_NAME} is damaged: its contents do not match its checksum")
    if body.pop("format") != _FORMAT:
        raise InputError(f"{path} was written by another version of mmjax; read it with that version")
    leaves = {
        name: LeafRecord(tuple(record["shape"]), record["dtype"], record["checksum"])
        for name, record in body.pop("leaves").items()
    }
    files = {name: FileRecord(**record) for name, record in body.pop("files").items()}
    return Manifest(leaves=leaves, files=files, **body)


def record_files(folder: epath.Path) -> dict[str, FileRecord]:
    """Records of all files of a step's folder but the manifest, by their path in it."""
    records = {}
    for path in _files(folder):
        name = str(path.relative_to(folder))
        if name not in (FILE_NAME, _UNFINISHED):
            records[name] = _record_file(path)
    return dict(sorted(records.items()))


def check_files(folder: epath.Path, files: dict[str, FileRecord]) -> None:
    """Compares the files of a step's folder with their records.

    Raises:
      CheckpointError: naming every file that is missing or changed.
    """
    problems = []
    for name, record in files.items():
        path = folder / name
        if not path.exists():
            problems.append(f"file {name} is missing")
        elif path.stat().length != record.bytes:
            problems.append(f"file {name} has {path.stat().length} bytes, not {record.bytes}")
        elif _record_file(path) != record:
            problems.append(f"file {name} changed since it was written")
    if problems:
        raise CheckpointError("; ".join(problems))


def clean_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics as plain floats; one that is not finite is left out, since it can be nobody's best."""
    values = {name: float(value) for name, value in metrics.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def clean_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a configuration as JSON gives it back: tuples have become lists.

    Raises:
      InputError: it holds something that JSON cannot.
    """
    try:
        return json.loads(json.dumps(dict(config)))
    except (TypeError, ValueError) as error:
        raise InputError(f"the configuration cannot be kept in a checkpoint: {error}") from None


def current_versions() -> dict[str, str]:
    """Versions of what writes the checkpoint."""
    packages = {"jax": "jax", "flax": "flax", "orbax": "orbax-checkpoint"}
    installed = {name: importlib.metadata.version(package) for name, package in packages.items()}
    return {"mmjax": __version__, **installed, "python": platform.python_version()}


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _record_file(path: epath.Path) -> FileRecord:
    size = path.stat().length
    return FileRecord(size, hashlib.sha256(path.read_bytes()).hexdigest() if size <= _HASHED_BYTES else None)


def _text_of(body: dict[str, Any]) -> str:
    checksum = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return json.dumps({**body, "checksum": checksum}, indent=1)
