"""Give a checkpoint back: in the layout of transformers, which opens it with from_pretrained.

mmjax export CKPT OUT                          an imported checkpoint, a run's workdir, or one step of it
mmjax export CKPT OUT --dtype bfloat16 --family open_flamingo
mmjax export CKPT OUT --format stablehlo --platforms cpu,tpu --batch 4 --length 512     programs for any JAX

CKPT may also be a folder in the layout of transformers, or the name of a model on a hub.
"""

from __future__ import annotations

import argparse
import json

from mmjax.interop.engine import EXPORT_DTYPES, export
from mmjax.interop.hub import find_source
from mmjax.interop.programs import Shapes
from mmjax.interop.stablehlo import export_stablehlo
from mmjax.training.pretrained import exportable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax export`."""
    parser.add_argument("checkpoint", metavar="CKPT", help="what `mmjax import` or `mmjax train` wrote")
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument(
        "--dtype", choices=EXPORT_DTYPES, help="type of the tensors (default: as they were imported, else float32)"
    )
    parser.add_argument("--family", metavar="NAME", help="the family to write it as (default: the first that can)")
    parser.add_argument("--max-shard-gb", type=float, default=5.0, metavar="X", help="largest file, in GB (default 5)")
    parser.add_argument(
        "--format",
        choices=("transformers", "stablehlo"),
        default="transformers",
        help="a checkpoint (default), or compiled-anywhere programs: encode, prefill, decode",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    programs = parser.add_argument_group("programs of --format stablehlo")
    programs.add_argument("--platforms", default="cpu", metavar="LIST", help="such as cpu,tpu,cuda (default cpu)")
    shapes = Shapes()
    programs.add_argument("--batch", type=int, default=shapes.batch, metavar="N", help="rows")
    programs.add_argument("--length", type=int, default=shapes.length, metavar="N", help="tokens of a prompt")
    programs.add_argument("--new-tokens", type=int, default=shapes.new_tokens, metavar="N", help="tokens written")
    programs.add_argument("--images", type=int, default=shapes.images, metavar="N", help="pictures a row")


def run(options: argparse.Namespace) -> int:
    """Exports; returns the exit code."""
    found = exportable(find_source(options.checkpoint), options.family)
    if options.format == "stablehlo":
        shapes = Shapes(options.batch, options.length, options.new_tokens, options.images)
        names = export_stablehlo(found, options.out, platforms=options.platforms.split(","), shapes=shapes)
        record = {"programs": names, "next": f"python {options.out}/load.py inputs.npz"}
        print(json.dumps(record) if options.json else f"programs: {', '.join(names)}\nnext: {record['next']}")
        return 0
    export(found, options.out, dtype=options.dtype, max_shard_bytes=int(options.max_shard_gb * 1e9))
    if options.json:
        print(json.dumps({"family": found.family.model_type, "folder": options.out}))
        return 0
    print(f"family: {found.family.model_type}")
    print(f"folder: {options.out}")
    if found.origin is None:
        print("no tokenizer or processor is written: the run did not begin with an import that has them")
    elif not found.origin.tokenizer:
        print("no tokenizer is written: the run has another one than the import that it began with")
    return 0
