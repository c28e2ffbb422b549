"""What a run, a checkpoint or a configuration holds: step, checksum, parameters by part.

mmjax inspect PATH             verifies a workdir's newest good checkpoint, or the step that PATH names
mmjax inspect DIR              a folder of transformers' layout, or a hub name: family, parameters, what would go where
mmjax inspect --config FILE    counts a configuration's parameters without making them
"""

from __future__ import annotations

import argparse
import json
import re
import sys

import jax

from mmjax.checkpoints.inspect import inspect, summarise
from mmjax.cli.configs import add_config_argument, load_config
from mmjax.core.config import to_tree
from mmjax.core.errors import InputError
from mmjax.interop import engine
from mmjax.interop.hub import find_source
from mmjax.models.families import FAMILIES
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.training.load import abstract_batch
from mmjax.training.pretrained import is_imported, open_imported
from mmjax.training.state import plan_state


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax inspect`."""
    parser.add_argument(
        "path", nargs="?", metavar="PATH", help="a workdir, its checkpoints, one step of them, or an outside folder"
    )
    add_config_argument(parser, required=False)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Inspects; returns the exit code."""
    if bool(options.path) == bool(options.config):
        raise InputError("give either a PATH (a workdir, a checkpoint) or --config FILE")
    path = find_source(options.path) if options.path else None
    if path and _is_outside(path):
        record = _of_outside(path)
    elif path:
        record = inspect(path, warn=lambda message: print(f"warning: {message}", file=sys.stderr))
        record |= _of_imported(path)
    else:
        record = _of_config(options)
    print(json.dumps(record) if options.json else _text(record))
    return 0


def _of_config(options):
    config = load_config(options.config, options.overrides)
    model = config.model.build(config.dtype)
    plan = plan_state(config, model, abstract_batch(config.data, config.batch_size), make_mesh(MeshConfig()))
    trainable = set(plan.trainable)
    summary = summarise(plan.shapes, FAMILIES[config.model.family].parts)
    trained = summarise({path: shape for path, shape in plan.shapes.items() if path in trainable}, {})
    return {"config": options.config, "step": None, **summary, "trainable": trained["parameters"]}


def _of_imported(path):
    """What an imported checkpoint was, and the settings of its model."""
    if not is_imported(path):
        return {}
    found = open_imported(path)
    architecture = (found.origin.config.get("architectures") or [found.family.architecture])[0]
    return {"family": found.family.model_type, "architecture": architecture, "model": to_tree(found.config)}


# Parts of the models of outside families, by the names that layers share.
_PARTS = {"attention": r".*attention/.*", "feed_forward": r".*mlp/.*", "norms": r".*norm/.*"}


# Those of models that are made of several: the blocks that look at pictures, and what stands under a name of its own.
_MODEL_PARTS = {"cross_attention": r"decoder/(layers|tail)/cross_\d+/.*"}


def _is_outside(path):
    return path.is_dir() and not (path / "checkpoints").exists() and (path / "config.json").exists()


def _of_outside(path):
    found = engine.inspect(path)
    stored, tensors = {}, []
    for name, tensor in found.tensors.items():
        entry = found.layout.entries[name]
        for piece in entry.pieces if not entry.tied else ():
            where = piece.path if piece.index is None else f"{piece.path}/{piece.index}"
            stored[where] = jax.ShapeDtypeStruct(piece.shape, tensor.dtype)
        inside = [{"path": piece.path, "index": piece.index, "shape": list(piece.shape)} for piece in entry.pieces]
        tensors.append(
            {
                "name": name,
                "shape": list(tensor.shape),
                "dtype": str(tensor.dtype),
                "tied": entry.tied,
                "inside": inside,
            }
        )
    return {
        "path": str(path),
        "family": found.family.model_type,
        "architecture": (found.origin.config.get("architectures") or [found.family.architecture])[0],
        **summarise(stored, _MODEL_PARTS if found.family.parts else _PARTS),
        "model": to_tree(found.config),
        "tensors": tensors,
    }


def _places(tensors):
    """A line for each tensor's name, with the numbers of layers left out: what it is and where it goes."""
    kinds: dict[tuple, int] = {}
    for tensor in tensors:
        inside = ", ".join(dict.fromkeys(re.sub(r"_\d+/", "_*/", piece["path"]) for piece in tensor["inside"]))
        target = f"tied to {inside}" if tensor["tied"] else inside
        kind = (re.sub(r"\.\d+\.", ".*.", tensor["name"]), f"{tensor['dtype']} {tensor['shape']}", target)
        kinds[kind] = kinds.get(kind, 0) + 1
    widths = [max(len(kind[column]) for kind in kinds) for column in range(2)]
    return [
        f"  {count:>4} x {name.ljust(widths[0])}  {what.ljust(widths[1])}  -> {where}"
        for (name, what, where), count in kinds.items()
    ]


def _text(record):
    keys = ("path", "config", "family", "architecture", "step", "sha256")
    lines = [f"{key}: {record[key]}" for key in keys if record.get(key) is not None]
    lines.append(f"parameters: {record['parameters']:,}")
    if "trainable" in record:
        lines.append(f"trainable: {record['trainable']:,}")
    width = max((len(name) for name in record["parts"]), default=0)
    for name, part in record["parts"].items():
        lines.append(f"  {name.ljust(width)}  {part['count']:>15,}  {part['bytes'] / 1e6:>12,.2f} MB")
    if "tensors" in record:
        lines += [f"tensors: {len(record['tensors'])}", *_places(record["tensors"])]
    return "\n".join(lines)
