"""Plans that were made are kept by what they were made of: configuration, chips, versions and this package's code."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The houses whose code decides what a program is, or what is told of it.
_HOUSES = ("core", "ops", "parallel", "layers", "models", "optim", "objectives", "training", "planning")


def default_folder() -> Path:
    """Where plans are kept unless another folder is named."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "mmjax" / "plans"


@dataclasses.dataclass(frozen=True)
class PlanStore:
    """A folder of plans."""

    folder: Path

    def key(self, what: Mapping[str, Any]) -> str:
        """The name of a plan of `what` (JSON), by the versions of the compiler and the code that there are now."""
        versions = [importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu", "flax", "optax")]
        text = json.dumps([what, versions, _code()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def read(self, key: str) -> dict[str, Any] | None:
        """A plan that was kept; None where there is none, or it cannot be read."""
        try:
            return json.loads((self.folder / f"{key}.json").read_text())
        except (OSError, ValueError):
            return None

    def write(self, key: str, plan: Mapping[str, Any]) -> None:
        """Keeps a plan. Where the folder cannot be written, nothing is kept."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part = self.folder / f"{key}.{os.getpid()}.part"
            part.write_text(json.dumps(plan))
            part.replace(self.folder / f"{key}.json")
        except OSError:
            return


@functools.cache
def _code() -> str:
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for house in _HOUSES:
        for path in sorted((package / house).rglob("*.py")):
            digest.update(str(path.relative_to(package)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
