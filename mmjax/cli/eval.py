"""Score a model on benchmarks and held-out digits: tasks x shots x selections x seeds, with intervals and controls.

Writes predictions.jsonl, scores.json and evaluation.html into --out (by default a run's workdir), the results in
official layouts below results/, and prints the table. The same command again goes on where it was interrupted.
`--compare A B` tests two files of predictions of the same items against each other.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import jax

from mmjax.cli.evaluated import Evaluated, asked_tasks, described, evaluated_folder, evaluated_run, known_tasks
from mmjax.core.errors import InputError
from mmjax.core.folders import local_path
from mmjax.evaluation.benchmarks.table import BENCHMARKS
from mmjax.evaluation.compare import compare, comparison_table
from mmjax.evaluation.corruptions import CORRUPTIONS
from mmjax.evaluation.files import score_table, write_scores
from mmjax.evaluation.harness import Evaluation, evaluate
from mmjax.evaluation.predictions import FileStore
from mmjax.evaluation.robustness import robustness_scores, robustness_table
from mmjax.evaluation.settings import CONTROLS, SELECTIONS, ControlShots, Options, Templates, ZeroShot
from mmjax.evaluation.tasks import digit_tasks
from mmjax.evaluation.worst import worst_predictions
from mmjax.parallel import distributed
from mmjax.reporting.evaluation_page import write_evaluation_page
from mmjax.training.load import check_can_write, find_run, load_run, read_config, usable_mesh

# Of processes that evaluate a folder, which has no settings of its own.
HEARTBEAT_SECONDS = 100.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax eval`."""
    parser.add_argument("--checkpoint", metavar="PATH", help="a workdir, or one step of its checkpoints")
    parser.add_argument("--model", metavar="DIR", help="a folder in the layout of transformers; hf:DIR: run by them")
    parser.add_argument("--list", action="store_true", help="list the tasks, with the files that they read, and stop")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two files of predictions: is B better than A?")
    parser.add_argument("--out", metavar="DIR", help="where the results go (default: the run's workdir)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    _add_task_arguments(parser.add_argument_group("what is asked"))
    distributed.add_arguments(parser)


def _add_task_arguments(group: Any) -> None:
    add = group.add_argument
    add("--tasks", "--task", default="", metavar="A,B", help="names of tasks (default: all of the digits of a run)")
    add("--data", action="append", metavar="DIR", help="the folder of a benchmark's official files, or NAME=DIR")
    add("--shots", default="", metavar="0,1,...", help="numbers of demonstrations (of each class for digits)")
    add("--seeds", type=int, default=3, metavar="N", help="how many seeds (default 3)")
    add("--queries", type=int, metavar="N", help="at most N queries a seed")
    add("--selection", default="", metavar="A,B", help=f"how demonstrations are picked: {', '.join(SELECTIONS)}")
    add("--encoder", metavar="DIR", help="a folder whose pictures' vectors rices compares (default: the model's own)")
    add("--controls", default="blanked", metavar="A,B", help=f"{', '.join(CONTROLS[1:])} (default blanked)")
    add("--control-shots", choices=get_args(ControlShots), default="one", help="at one number of shots, or at all")
    kinds = ", ".join(CORRUPTIONS)
    add("--robustness", nargs="?", const="", metavar="A,B", help=f"also under corruptions: {kinds} (default: all)")
    add("--zero-shot", choices=get_args(ZeroShot), default="none", help="text: two demonstrations without pictures")
    add("--templates", choices=get_args(Templates), default="first", help="all: an ensemble of a benchmark's prompts")
    add("--method", choices=("generate", "rank"), help="instead of a benchmark's own way to answer")
    add("--normalize", action="store_true", help="rank candidates by log-likelihood per token")
    add("--beams", type=int, default=1, metavar="N", help="beams of writing (default 1, greedy)")
    add("--max-bad-share", type=float, default=0.01, metavar="X", help="broken pictures that are borne (default 0.01)")
    add("--cache", metavar="DIR", help="where the vectors of pictures are kept (default: .mmjax in the data's folder)")


def run(options: argparse.Namespace) -> int:
    """Evaluates, lists or compares; returns the exit code."""
    if options.compare:
        return _compare(*map(Path, options.compare), as_json=options.json)
    if options.list:
        return _list(options)
    if (options.checkpoint is None) == (options.model is None):
        raise InputError("give what to evaluate: --checkpoint PATH of a run, or --model DIR (hf:DIR for transformers)")
    asked = _options(options)
    evaluated, out = _open(options)
    tasks = asked_tasks(_words(options.tasks), asked, evaluated, options)
    tells = jax.process_index() == 0
    if tells:
        print(f"evaluating {evaluated.model.name}", file=sys.stderr)
    store = FileStore(out, described(evaluated, tasks, asked, options)) if tells else None
    evaluation = evaluate(
        evaluated.model,
        tasks,
        asked,
        store=store,
        together=evaluated.together,
        results=out / "results",
        progress=tells,
    )
    if store is not None:
        _write(out, evaluated, tasks, evaluation, store, as_json=options.json)
    return 0


def _open(options: argparse.Namespace) -> tuple[Evaluated, Path]:
    """The model, and where its results go."""
    names, given = _words(options.tasks), options.data or ()
    if options.model is not None:
        known_tasks(names, None, given)
        if not options.out:
            raise InputError("say where the results go: --out DIR")
        distributed.join(options, heartbeat_seconds=HEARTBEAT_SECONDS)
        return evaluated_folder(options.model), local_path(options.out)
    workdir, _ = find_run(options.checkpoint)
    config = read_config(workdir)
    check_can_write(config, "mmjax eval")
    known_tasks(names, config.data, given)
    distributed.join(options, heartbeat_seconds=config.guards.heartbeat_seconds)
    mesh = usable_mesh(config)
    return evaluated_run(load_run(options.checkpoint, mesh), mesh), local_path(options.out or workdir)


def _options(options: argparse.Namespace) -> Options:
    for name in ("seeds", "queries", "beams"):
        given = getattr(options, name)
        if given is not None and given < 1:
            raise InputError(f"--{name} must be 1 or more, not {given}")
    return Options(
        shots=tuple(_numbers(options.shots)),
        seeds=options.seeds,
        queries=options.queries,
        selections=tuple(_words(options.selection)),
        controls=tuple(_words(options.controls)),
        control_shots=options.control_shots,
        zero_shot=options.zero_shot,
        templates=options.templates,
        normalize=options.normalize,
        beams=options.beams,
        max_bad_share=options.max_bad_share,
    )


def _write(
    out: Path, evaluated: Evaluated, tasks: Sequence, evaluation: Evaluation, store: FileStore, *, as_json: bool
):
    path = write_scores(out, evaluation.rows)
    worst = worst_predictions(tasks, store.rows())
    page = write_evaluation_page(out, evaluated.model.name, evaluation.rows, worst, evaluation.bad)
    if evaluation.bad:
        lines = "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in evaluation.bad)
        (out / "bad_pictures.jsonl").write_text(lines, encoding="utf-8")
        kinds = collections.Counter(one["kind"] for one in evaluation.bad)
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        print(
            f"warning: {len(evaluation.bad)} items with broken pictures ({counts}): bad_pictures.jsonl", file=sys.stderr
        )
    if as_json:
        print(json.dumps(evaluation.rows))
        return
    print(score_table(evaluation.rows))
    robustness = robustness_scores(evaluation.rows)
    if robustness:
        print(f"\nunder corruptions, by strength:\n{robustness_table(robustness)}\n")
    for row in evaluation.rows:
        if "official" in row:
            scores = ", ".join(
                f"{name} {'-' if value is None else format(value, '.4g')}" for name, value in row["official"].items()
            )
            print(f"{row['task']}, {row['shots']} shots, {row['selection']}, {row['control']}: official {scores}")
    print(f"\nwrote {path} and {page}")
    if (out / "checkpoints").is_dir():
        print(f"next: mmjax report --workdir {out}")


def _compare(first: Path, second: Path, *, as_json: bool) -> int:
    compared = compare(first, second)
    print(json.dumps([one._asdict() for one in compared]) if as_json else comparison_table(compared))
    return 0


def _list(options: argparse.Namespace) -> int:
    """Benchmarks with the files that they read; digit tasks of a run, where one is named."""
    digits = []
    if options.checkpoint:
        workdir, _ = find_run(options.checkpoint)
        digits = list(digit_tasks(read_config(workdir).data))
    if options.json:
        print(json.dumps({"digits": digits, "benchmarks": {name: one.files for name, one in BENCHMARKS.items()}}))
        return 0
    width = max(map(len, [*digits, *BENCHMARKS]))
    for name in digits:
        print(f"{name:{width}}  digits held out from the run's training data")
    for name, benchmark in BENCHMARKS.items():
        print(f"{name:{width}}  {benchmark.files}")
    return 0


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    words = _words(text)
    if not all(word.isdigit() for word in words):
        raise InputError(f"--shots must be whole numbers with commas between, such as 0,1,2,4, not {text!r}")
    return [int(word) for word in words]
