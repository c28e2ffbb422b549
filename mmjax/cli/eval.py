"""Score a trained model on held-out episodes: tasks x shots x seeds, with 95% intervals and controls without pictures.

Writes scores.json and predictions.jsonl into the run's workdir and prints the table.
"""

from __future__ import annotations

import argparse
import json
import sys

from mmjax.core.errors import InputError
from mmjax.evaluation.files import score_table, write_scores
from mmjax.evaluation.harness import evaluate
from mmjax.evaluation.tasks import choose_tasks, digit_tasks
from mmjax.training.load import find_run, load_run, read_config, usable_mesh


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax eval`."""
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help="a workdir, or one step of its checkpoints")
    parser.add_argument("--tasks", default="", metavar="A,B", help="names of tasks (default: all that the data allow)")
    parser.add_argument("--list", action="store_true", help="list the tasks and stop")
    parser.add_argument("--shots", default="", metavar="0,1,...", help="numbers of shots instead of the tasks' own")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how many seeds (default 3)")
    parser.add_argument("--queries", type=int, default=None, metavar="N", help="at most N queries a seed")
    parser.add_argument(
        "--controls",
        default="blanked",
        metavar="A,B",
        help="also score with the pictures `blanked` or `shuffled` (default blanked; empty for none)",
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def run(options: argparse.Namespace) -> int:
    """Evaluates; returns the exit code."""
    workdir, _ = find_run(options.checkpoint)
    config = read_config(workdir)
    available = digit_tasks(config.data)
    if options.list:
        print(json.dumps(sorted(available)) if options.json else "\n".join(available))
        return 0
    tasks = choose_tasks(available, _words(options.tasks))
    controls = _words(options.controls)
    for control in controls:
        if control not in ("blanked", "shuffled"):
            raise InputError(f"--controls must be blanked, shuffled or both, not {control!r}")
    shots = _numbers(options.shots)
    for name in ("seeds", "queries"):
        given = getattr(options, name)
        if given is not None and given < 1:
            raise InputError(f"--{name} must be 1 or more, not {given}")
    mesh = usable_mesh(config)
    loaded = load_run(options.checkpoint, mesh)
    print(f"evaluating {workdir} at step {loaded.step}", file=sys.stderr)
    evaluation = evaluate(
        loaded.model,
        loaded.params,
        loaded.tokenizer,
        tasks,
        shots=shots,
        seeds=options.seeds,
        queries=options.queries,
        controls=controls,
        mesh=mesh,
    )
    path = write_scores(workdir, evaluation)
    print(json.dumps(evaluation.rows) if options.json else score_table(evaluation.rows))
    if not options.json:
        print(f"\nwrote {path}\nnext: mmjax report --workdir {workdir}")
    return 0


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    words = _words(text)
    if not all(word.isdigit() for word in words):
        raise InputError(f"--shots must be whole numbers with commas between, such as 0,1,2,4, not {text!r}")
    return [int(word) for word in words]
