"""What an evaluation leaves in the workdir: scores.json and samples; and its table on the terminal."""

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
from mmjax.evaluation.predictions import replace_file
from mmjax.evaluation.scores import Score
from mmjax.evaluation.tasks import Task


def write_scores(workdir: str | os.PathLike, rows: Sequence[Score]) -> Path:
    """Writes scores.json, whole or not at all; returns its path."""
    path = Path(workdir) / "scores.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(rows, indent=1) + "\n")
    return path


_HEADINGS = ("task", "shots", "picked", "control", "score", "95% interval", "answers", "chance")


def score_table(rows: Sequence[Score]) -> str:
    """The rows as text, shares in percent; official scores, where there are any, are in scores.json."""
    lines = [
        (
            row["task"],
            str(row["shots"]),
            row["selection"],
            row["control"],
            _percent(row["score"]),
            "-" if row["low"] is None else f"{_percent(row['low'])} to {_percent(row['high'])}",
            f"{row['n']}",
            _percent(row["chance"]),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *lines, strict=True)]
    rule = tuple("-" * width for width in widths)
    return "\n".join(_line(cells, widths) for cells in (_HEADINGS, rule, *lines))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _line(cells, widths):
    left = {0, 2, 3}  # words to the left, numbers to the right
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
