"""What a run writes about itself while it trains: metrics.jsonl, TensorBoard files, bad records."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tensorboardX


class RunLog:
    """The growing files of a workdir. A run resumed at a step first drops the lines from that step on."""

    def __init__(self, workdir: Path, *, resume_step: int, process: int = 0, processes: int = 1):
        """Process 0 writes; of the others, only the records that each could not use, in a file of its own."""
        self._workdir = workdir
        self._writes = process == 0
        self._board = None
        self._bad_records = f"bad_records-{process}.jsonl" if process else "bad_records.jsonl"
        drop_lines_after(workdir / self._bad_records, resume_step)
        if self._writes:
            for name in ("metrics.jsonl", "evaluations.jsonl"):
                drop_lines_after(workdir / name, resume_step)
            for path in workdir.glob("bad_records-*.jsonl"):  # of processes that there were, and are not now
                if int(path.stem.split("-")[1]) >= processes:
                    drop_lines_after(path, resume_step)
            self._board = tensorboardX.SummaryWriter(
                str(workdir / "tensorboard"), purge_step=resume_step + 1, flush_secs=10
            )

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl; single numbers go to TensorBoard too."""
        if not self._writes:
            return
        self._append("metrics.jsonl", [{"step": step, **values}])
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._board.add_scalar(name, value, step)
        for path, gates in values.get("gates", {}).items():
            for index, gate in enumerate(gates):
                self._board.add_scalar(f"gates/{path}/{index}", gate, step)

    def evaluation(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """One line of evaluations.jsonl with all scores of a step, which go to TensorBoard too."""
        if not self._writes:
            return
        rows = [dict(row) for row in rows]
        self._append("evaluations.jsonl", [{"step": step, "rows": rows}])
        for name, score in score_names(rows).items():
            self._board.add_scalar(f"scores/{name}", score, step)

    def bad_records(self, step: int, records: Iterable[Any]) -> None:
        """A line for each record that could not be used."""
        if records:
            self._append(self._bad_records, [{"step": step, **record._asdict()} for record in records])

    def left_out(self, records: Iterable[Any]) -> None:
        """The records that no step reads, as lines of step 0: for a run that begins, and has no others."""
        path = self._workdir / self._bad_records
        if self._writes and (records or path.exists()):
            path.write_text("", encoding="utf-8")
            self.bad_records(0, records)

    def close(self) -> None:
        """Flushes the TensorBoard file."""
        if self._board is not None:
            self._board.close()

    def _append(self, name, lines):
        text = "".join(json.dumps(finite(line)) + "\n" for line in lines)
        with open(self._workdir / name, "a", encoding="utf-8") as file:
            file.write(text)


def score_names(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The scores of an evaluation by short names: TASK_N_shots, with a control or a further selection behind."""
    named: dict[str, float] = {}
    for row in rows:
        name = f"{row['task']}_{row['shots']}_shots"
        name += "" if row["control"] == "none" else f"_{row['control']}"
        name += f"_{row['selection']}" if name in named else ""
        if row["score"] is not None:
            named[name] = row["score"]
    return named


def drop_lines_after(path: Path, step: int) -> None:
    """Drops the lines of a JSON-lines file whose step is above `step`, and a last line cut off by a kill."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["step"] <= step:
            kept.append(line + "\n")
    write_text(path, "".join(kept))


def write_text(path: Path, text: str) -> None:
    """Replaces a file whole: it is never seen half-written."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
