"""What a checkpoint holds, told without a model and without a device."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from mmjax.checkpoints import folder, manifest, store
from mmjax.checkpoints.checksum import host_checksum
from mmjax.checkpoints.manifest import Manifest
from mmjax.core.errors import CheckpointError, InputError
from mmjax.core.paths import part_of
from mmjax.models.families import FAMILIES

_PARAMETERS = ("params", "frozen")
_DIGESTED = (*_PARAMETERS, "optimizer")


def locate(path: str | os.PathLike) -> tuple[epath.Path, int | None]:
    """The checkpoints directory that a path means, and the step if it names one.

    The path is a run's working directory, its directory of checkpoints, or one step in there.

    Raises:
      InputError: there is no checkpoint at this path.
    """
    path = epath.Path(path).absolute()
    if path.name.isdecimal() and (path / manifest.FILE_NAME).exists():
        return path.parent, int(path.name)
    for directory in (path / "checkpoints", path):
        if folder.list_steps(directory):
            return directory, None
    raise InputError(f"{path} holds no checkpoint; give a run's working directory, its checkpoints/ or one step in it")


def inspect(path: str | os.PathLike, *, warn: Callable[[str], None]) -> dict[str, Any]:
    """Reads and verifies a checkpoint; of a directory, the newest good step.

    Returns:
      `path`, `step`, `sha256` (over parameters, optimizer state and data position, in the order of their
      names), `position`, `metrics`, `versions`, and what `summarise` says of the parameters.

    Raises:
      InputError: there is no checkpoint at this path.
      CheckpointError: no step is good, or the one that the path names is not.
    """
    directory, step = locate(path)
    steps = folder.list_steps(directory) if step is None else [step]
    for candidate in reversed(steps):
        here = folder.step_folder(directory, candidate)
        try:
            record = manifest.read_manifest(here)
            manifest.check_files(here, record.files)
            digest = _verify_and_digest(here, record)
        except CheckpointError as error:
            if step is not None:
                raise CheckpointError(f"checkpoint {here} is damaged: {error}") from None
            warn(f"checkpoint {here} is damaged: {error}; it is passed over")
            continue
        parameters = {
            name.partition("/")[2]: leaf
            for name, leaf in record.leaves.items()
            if name.partition("/")[0] in _PARAMETERS
        }
        return {
            "path": str(here),
            "step": record.step,
            "sha256": digest,
            **summarise(parameters, _patterns(record)),
            "position": record.position,
            "metrics": record.metrics,
            "versions": record.versions,
        }
    raise CheckpointError(f"{directory} has no good checkpoint; its steps are: {', '.join(map(str, steps))}")


def summarise(parameters: Mapping[str, Any], patterns: Mapping[str, str]) -> dict[str, Any]:
    """Counts the parameters `{path: leaf with shape and dtype}`, in all and by part.

    `patterns` are those of the parts' paths, by name; what none matches counts by the first component of its path.

    Returns:
      `parameters`, and `parts`: `{name: {"count": elements, "bytes": bytes}}` in the order of first appearance.
    """
    parts: dict[str, dict[str, int]] = {}
    for path, leaf in parameters.items():
        part = parts.setdefault(part_of(path, patterns), {"count": 0, "bytes": 0})
        count = int(np.prod(leaf.shape, dtype=np.int64))
        part["count"] += count
        part["bytes"] += count * np.dtype(leaf.dtype).itemsize
    return {"parameters": sum(part["count"] for part in parts.values()), "parts": parts}


def _patterns(record: Manifest) -> Mapping[str, str]:
    """How the parts of the checkpoint's model are named, where its configuration says what family it is of."""
    family = record.config.get("model", {}).get("family")
    return FAMILIES[family].parts if family in FAMILIES else {}


def _verify_and_digest(path: epath.Path, record: Manifest) -> str:
    digest = hashlib.sha256()
    shapes = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in sorted(record.leaves.items())}
    changed = []
    for name, array in store.read_host(path, shapes):
        if host_checksum(array) != record.leaves[name].checksum:
            changed.append(name)
        if name.partition("/")[0] in _DIGESTED:
            digest.update(f"{name} {array.dtype.name} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    if changed:
        raise CheckpointError(f"{', '.join(changed)} changed since it was written")
    digest.update(json.dumps(record.position, sort_keys=True).encode())
    return digest.hexdigest()
