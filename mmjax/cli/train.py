"""Train a model in a workdir; the same command again resumes it where it was saved.

SIGTERM or Ctrl-C saves after the running step and exits 0. The workdir gets config.json, metrics.jsonl,
evaluations.jsonl, TensorBoard files and checkpoints/STEP/.
"""

from __future__ import annotations

import argparse
import json

from mmjax.cli.configs import add_config_argument, load_config
from mmjax.training.loop import Trainer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax train`."""
    add_config_argument(parser, required=True)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="where the run lives")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    """Trains; returns the exit code."""
    config = load_config(options.config, options.overrides)
    result = Trainer(config, options.workdir).train()
    if options.json:
        record = {"step": result.step, "stopped_by": result.stopped_by, "checkpoint": str(result.checkpoint)}
        print(json.dumps(record))
    elif result.stopped_by:
        print(f"stopped by {result.stopped_by} at step {result.step}, saved in {result.checkpoint}; the same command resumes")
    else:
        print(f"trained to step {result.step}; checkpoint {result.checkpoint}")
        print(f"next: mmjax eval --checkpoint {options.workdir}")
    return 0
