"""Score predictions that are in a file, whatever made them, as the official evaluation of the data set does.

mmjax score --task T --predictions F --references G     scores of the captions, answers or rankings in F
mmjax score --list                                      tasks: metrics, scale and layout of both files

Scores are on the scale of the official evaluation: VQA accuracy in percent with two decimals, captions from 0 to 1
(CIDEr from 0 to 10); --list tells for each task. Nothing is fetched: METEOR and SPICE are null where Java or the
package pycocoevalcap (mmjax[eval]) is missing, and the reason is told.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mmjax.core.config import nearest
from mmjax.core.errors import InputError
from mmjax.evaluation.metrics.layout import Inputs, Scores
from mmjax.evaluation.metrics.tasks import SCORING_TASKS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax score`."""
    parser.add_argument("--task", metavar="T", help="what is scored: one of --list")
    parser.add_argument("--predictions", type=Path, metavar="F", help="the file to be scored")
    parser.add_argument("--references", type=Path, metavar="G", help="what is right: the data set's own file")
    parser.add_argument("--questions", type=Path, metavar="Q", help="vqav2, okvqa: the official questions")
    parser.add_argument(
        "--subset", action="store_true", help="score what is predicted; otherwise a missing prediction is an error"
    )
    parser.add_argument("--list", action="store_true", help="print the tasks with their metrics and layouts")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Scores; returns the exit code."""
    if options.list:
        print(_listing(as_json=options.json))
        return 0
    if options.task is None or options.predictions is None:
        raise InputError("give --task T and --predictions F, or --list")
    if options.task not in SCORING_TASKS:
        raise InputError(f"there is no task {options.task!r}{nearest(options.task, SCORING_TASKS)}")
    task = SCORING_TASKS[options.task]
    for name in ("references", "questions", "subset"):
        if getattr(options, name) and name not in task.takes:
            raise InputError(f"{options.task} takes no --{name}")
    inputs = Inputs(options.predictions, options.references, options.questions, options.subset)
    found = task.score(inputs)
    record = {"task": options.task, "count": found.count, "scores": dict(found.scores), "reasons": dict(found.reasons)}
    print(json.dumps(record) if options.json else _table(options.task, task.scale, found))
    return 0


def _listing(*, as_json: bool) -> str:
    tasks = {
        name: {key: getattr(task, key) for key in ("metrics", "scale", "predictions", "references")}
        for name, task in SCORING_TASKS.items()
    }
    if as_json:
        return json.dumps(tasks)
    lines = []
    for name, task in tasks.items():
        lines.append(f"{name}: {task['metrics']} ({task['scale']})")
        lines.append(f"    predictions: {task['predictions']}")
        lines.append(f"    references:  {task['references']}")
    return "\n".join(lines)


def _table(name: str, scale: str, found: Scores) -> str:
    width = max(map(len, found.scores))
    lines = [f"{name}: {found.count} scored; {scale}"]
    for metric, value in found.scores.items():
        shown = f"- ({found.reasons[metric]})" if value is None else f"{value:.4f}"
        lines.append(f"  {metric.ljust(width)}  {shown}")
    return "\n".join(lines)
