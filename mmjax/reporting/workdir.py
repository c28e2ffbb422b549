"""What a run left in its folder, as far as it is there: a report is wanted most of a run that did not go well."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from etils import epath

from mmjax.checkpoints.folder import list_complete_steps, step_folder
from mmjax.checkpoints.manifest import Manifest, read_manifest
from mmjax.core.errors import InputError, MmjaxError


@dataclasses.dataclass(frozen=True)
class Run:
    """The files of a workdir. What is missing is empty; `problems` names what is there and cannot be read.

    metrics: logged steps in ascending order, each once. scores, evaluations, predictions, bad_records: rows as
    they were written. checkpoint: the manifest of the newest complete step.
    """

    folder: pathlib.Path
    metrics: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    predictions: list[dict[str, Any]]
    bad_records: list[dict[str, Any]]
    config: dict[str, Any]
    versions: dict[str, Any]
    checkpoint: Manifest | None
    problems: list[str]

    @property
    def last(self) -> dict[str, Any]:
        """The last logged step."""
        return self.metrics[-1] if self.metrics else {}

    def latest(self, key: str) -> Any:
        """The last logged value of `key`, or None."""
        return next((row[key] for row in reversed(self.metrics) if row.get(key) is not None), None)


def read_run(workdir: str | os.PathLike) -> Run:
    """Reads a workdir.

    Raises:
      InputError: there is no such folder.
    """
    folder = pathlib.Path(workdir)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give the --workdir of a run")
    problems: list[str] = []
    return Run(
        folder=folder,
        metrics=_by_step(_read_lines(folder / "metrics.jsonl", problems)),
        scores=_rows(_read_json(folder / "scores.json", problems)),
        evaluations=_read_lines(folder / "evaluations.jsonl", problems),
        predictions=_read_lines(folder / "predictions.jsonl", problems),
        bad_records=_bad_records(folder, problems),
        config=_mapping(_read_json(folder / "config.json", problems)),
        versions=_mapping(_read_json(folder / "versions.json", problems)),
        checkpoint=_newest_manifest(folder / "checkpoints", problems),
        problems=problems,
    )


def _read_json(path: pathlib.Path, problems: list[str]) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        problems.append(f"{path.name} is not JSON: {error}")
        return None


def _read_lines(path: pathlib.Path, problems: list[str]) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file. A killed process may leave half a line at the end, which is passed over."""
    if not path.is_file():
        return []
    rows, broken = [], []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif number < len(lines):
            broken.append(number)
    if broken:
        shown = ", ".join(map(str, broken[:5])) + (", ..." if len(broken) > 5 else "")
        problems.append(f"{path.name}: what is not a JSON object was left out, line {shown}")
    return rows


def _bad_records(folder: pathlib.Path, problems: list[str]) -> list[dict[str, Any]]:
    """Those of all processes; a record that several of them read counts once."""
    rows = [row for path in sorted(folder.glob("bad_records*.jsonl")) for row in _read_lines(path, problems)]
    return list({(row.get("step"), str(row.get("id"))): row for row in rows}.values())


def _by_step(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a step, the last that was written: a resumed run logs again what it does again."""
    steps = {row["step"]: row for row in rows if isinstance(row.get("step"), int)}
    return [steps[step] for step in sorted(steps)]


def _rows(value: Any) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _newest_manifest(folder: pathlib.Path, problems: list[str]) -> Manifest | None:
    directory = epath.Path(folder)
    for step in reversed(list_complete_steps(directory)):
        try:
            return read_manifest(step_folder(directory, step))
        except MmjaxError as error:
            problems.append(f"checkpoint {step}: {error}")
    return None
