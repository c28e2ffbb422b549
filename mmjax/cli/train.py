"""Train a model in a workdir; the same command again resumes it where it was saved.

SIGTERM or Ctrl-C saves after the running step and exits 0. The workdir gets config.json, metrics.jsonl,
evaluations.jsonl, TensorBoard files and checkpoints/STEP/.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mmjax.cli.configs import add_config_argument, load_config
from mmjax.core.errors import InputError
from mmjax.evaluation.harness import evaluate
from mmjax.evaluation.tasks import choose_tasks, digit_tasks
from mmjax.parallel.mesh import make_mesh
from mmjax.training.loop import Evaluate, Trainer
from mmjax.training.run import RunConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax train`."""
    add_config_argument(parser, required=True)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="where the run lives")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    """Trains; returns the exit code."""
    config = load_config(options.config, options.overrides)
    try:
        Path(options.workdir).expanduser().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--workdir {options.workdir} cannot be used: {error.strerror}") from None
    result = Trainer(config, options.workdir, evaluate=evaluation_while_training(config)).train()
    if options.json:
        record = {"step": result.step, "stopped_by": result.stopped_by, "checkpoint": str(result.checkpoint)}
        print(json.dumps(record))
    elif result.stopped_by:
        print(f"stopped by {result.stopped_by} at step {result.step}, which is saved; the same command resumes")
    else:
        print(f"trained to step {result.step}; checkpoint {result.checkpoint}")
        print(f"next: mmjax eval --checkpoint {options.workdir}")
    return 0


def evaluation_while_training(config: RunConfig) -> Evaluate | None:
    """What the loop calls every `eval_every_steps`: the scores of the tasks that `config.evaluation` names."""
    if not config.eval_every_steps:
        return None
    wanted = config.evaluation
    tasks = choose_tasks(digit_tasks(config.data), wanted.tasks)
    mesh = make_mesh(config.mesh)

    def score(model, params, tokenizer, step):
        return evaluate(
            model,
            params,
            tokenizer,
            tasks,
            shots=wanted.shots,
            seeds=wanted.seeds,
            queries=wanted.queries,
            controls=(),
            mesh=mesh,
            progress=False,
        ).rows

    return score
