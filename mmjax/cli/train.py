"""Train a model in a workdir; the same command again resumes it where it was saved.

SIGTERM or Ctrl-C saves after the running step and exits 0. The workdir gets config.json, metrics.jsonl,
evaluations.jsonl, TensorBoard files and checkpoints/STEP/.
"""

from __future__ import annotations

import argparse
import json

from mmjax.cli.configs import add_config_argument, load_config
from mmjax.cli.evaluated import tasks_while_training
from mmjax.core.errors import InputError
from mmjax.core.folders import local_path
from mmjax.evaluation.harness import evaluate
from mmjax.evaluation.models.run import RunModel
from mmjax.evaluation.settings import Options
from mmjax.parallel import distributed
from mmjax.parallel.mesh import make_mesh
from mmjax.training.load import check_can_write
from mmjax.training.loop import Evaluate, Trainer
from mmjax.training.run import RunConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax train`."""
    add_config_argument(parser, required=True)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="where the run lives")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    distributed.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Trains; returns the exit code."""
    config = load_config(options.config, options.overrides)
    distributed.join(options, heartbeat_seconds=config.guards.heartbeat_seconds)
    try:
        workdir = local_path(options.workdir)
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--workdir {options.workdir} cannot be used: {error.strerror}") from None
    result = Trainer(config, workdir, evaluate=evaluation_while_training(config)).train()
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
    check_can_write(config, "config.eval_every_steps (0 is never)")
    wanted = config.evaluation
    options = Options(
        shots=wanted.shots,
        seeds=wanted.seeds,
        queries=wanted.queries,
        selections=wanted.selections,
        controls=wanted.controls,
    )
    mesh = make_mesh(config.mesh)
    asked: list[RunModel] = []

    def embed(pictures):
        return asked[-1].embed_pictures(pictures, progress=lambda count: None)

    folders = [f"{name}={folder}" for name, folder in wanted.data.items()]
    tasks = tasks_while_training(wanted.tasks, options, config.data, folders, embed)

    def score(model, params, tokenizer, step):
        asked[:] = [RunModel(model, params, tokenizer, name=f"step {step}", mesh=mesh)]
        return evaluate(asked[-1], tasks(), options, progress=False).rows

    return score
