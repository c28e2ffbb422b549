"""What an evaluation leaves in the workdir: scores.json, predictions.jsonl, samples; and its table on the terminal."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from mmjax.core.errors import InputError
from mmjax.data.episode import answer_segment
from mmjax.evaluation.harness import Evaluation, Score
from mmjax.evaluation.tasks import Task


def write_scores(workdir: str | os.PathLike, evaluation: Evaluation) -> Path:
    """Writes scores.json and predictions.jsonl, each whole or not at all; returns the path of the scores."""
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(prediction, ensure_ascii=False) for prediction in evaluation.predictions)
    _replace(workdir / "predictions.jsonl", "".join(f"{line}\n" for line in lines))
    path = workdir / "scores.json"
    _replace(path, json.dumps(evaluation.rows, indent=1) + "\n")
    return path


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


_HEADINGS = ("task", "shots", "images", "score", "95% interval", "answers", "chance")


def score_table(rows: Sequence[Score]) -> str:
    """The rows as text, shares in percent."""
    lines = [
        (
            row["task"],
            str(row["shots"]),
            row["images"],
            f"{100 * row['score']:.1f}",
            f"{100 * row['low']:.1f} to {100 * row['high']:.1f}",
            f"{row['n']}",
            f"{100 * row['chance']:.1f}",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *lines, strict=True)]
    rule = tuple("-" * width for width in widths)
    return "\n".join(_line(cells, widths) for cells in (_HEADINGS, rule, *lines))


def _line(cells, widths):
    left = {0, 2}  # words to the left, numbers to the right
    padded = (
        cell.ljust(width) if number in left else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(padded).rstrip()


class Sample(NamedTuple):
    """A few-shot prompt as files: (picture, text) of each shot, then the picture and the prompt to be continued."""

    shots: tuple[tuple[Path, str], ...]
    image: Path
    prompt: str
    answer: str

    def arguments(self, relative_to: Path | None = None) -> str:
        """The options of `mmjax generate` for it, quoted for a shell."""

        def name(path):
            return shlex.quote(os.path.relpath(path, relative_to) if relative_to else str(path))

        shots = [f"--shot {name(path)}:{shlex.quote(text)}" for path, text in self.shots]
        return " ".join([*shots, f"--image {name(self.image)}", f"--prompt {shlex.quote(self.prompt)}"])


def write_samples(workdir: str | os.PathLike, task: Task, *, shots: int = 2, seed: int = 0) -> Sample:
    """Writes the pictures of the first episode of `task` to samples/*.png.

    Raises:
      InputError: the task asks several things about one picture, which is no few-shot prompt of pictures.
    """
    episode = task.episodes(shots, seed, 1)[0]
    turns = [*episode.demonstrations, episode.query]
    if any(turn.media is None for turn in turns):
        raise InputError(f"{task.name} asks several questions about one picture; choose a task with one each")
    folder = Path(workdir) / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, turn in enumerate(turns, 1):
        last = number == len(turns)
        path = folder / ("query.png" if last else f"shot_{number}_{turn.answer}.png")
        Image.fromarray(turn.media.load()[0]).save(path)
        written.append((path, turn.question + answer_segment(turn, turn.answer).text))
    return Sample(tuple(written[:-1]), written[-1][0], episode.query.question, episode.query.answer)
