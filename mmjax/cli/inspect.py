"""What a run, a checkpoint or a configuration holds: step, checksum, parameters by part.

mmjax inspect PATH             verifies a workdir's newest good checkpoint, or the step that PATH names
mmjax inspect --config FILE    counts a configuration's parameters without making them
"""

from __future__ import annotations

import argparse
import json
import sys

from mmjax.checkpoints.inspect import inspect, summarise
from mmjax.cli.configs import add_config_argument, load_config
from mmjax.core.errors import InputError
from mmjax.models.families import FAMILIES
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.training.load import abstract_batch, build_model
from mmjax.training.state import plan_state


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax inspect`."""
    parser.add_argument("path", nargs="?", metavar="PATH", help="a workdir, its checkpoints, or one step of them")
    add_config_argument(parser, required=False)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Inspects; returns the exit code."""
    if bool(options.path) == bool(options.config):
        raise InputError("give either a PATH (a workdir, a checkpoint) or --config FILE")
    if options.path:
        record = inspect(options.path, warn=lambda message: print(f"warning: {message}", file=sys.stderr))
    else:
        record = _of_config(options)
    print(json.dumps(record) if options.json else _text(record))
    return 0


def _of_config(options):
    config = load_config(options.config, options.overrides)
    model, _ = build_model(config)
    plan = plan_state(config, model, abstract_batch(config.data, config.batch_size), make_mesh(MeshConfig()))
    trainable = set(plan.trainable)
    summary = summarise(plan.shapes, FAMILIES[config.model.family].parts)
    trained = summarise({path: shape for path, shape in plan.shapes.items() if path in trainable}, {})
    return {"config": options.config, "step": None, **summary, "trainable": trained["parameters"]}


def _text(record):
    lines = [f"{key}: {record[key]}" for key in ("path", "config", "step", "sha256") if record.get(key) is not None]
    lines.append(f"parameters: {record['parameters']:,}")
    if "trainable" in record:
        lines.append(f"trainable: {record['trainable']:,}")
    width = max((len(name) for name in record["parts"]), default=0)
    for name, part in record["parts"].items():
        lines.append(f"  {name.ljust(width)}  {part['count']:>15,}  {part['bytes'] / 1e6:>12,.2f} MB")
    return "\n".join(lines)
