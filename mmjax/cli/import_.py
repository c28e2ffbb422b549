"""Take an outside checkpoint in: a folder in the layout of transformers becomes a checkpoint of mmjax.

mmjax import DIR OUT                              DIR: config.json and safetensors, or the name of a model on a hub
mmjax import DIR OUT --part decoder=LM --part vision=CLIP    DIR holds only what was trained upon these (OpenFlamingo)
mmjax train --config FILE --workdir W --config.init_from=OUT    starts from it
mmjax export OUT BACK                             gives it back
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from mmjax.checkpoints.inspect import summarise
from mmjax.core.errors import InputError
from mmjax.core.folders import check_new
from mmjax.interop.assembled import assemble
from mmjax.interop.hub import find_source
from mmjax.training.pretrained import IMPORT_DTYPES, import_checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax import`."""
    parser.add_argument("source", metavar="DIR", help="a folder in the layout of transformers, or a hub name")
    parser.add_argument("out", metavar="OUT", help="where to write the checkpoint")
    parser.add_argument(
        "--dtype", default="float32", choices=IMPORT_DTYPES, help="type of the parameters (default float32)"
    )

    parser.add_argument(
        "--part",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a model that DIR was built upon; may be repeated",
    )
    parser.add_argument(
        "--pad-vocab-to",
        type=int,
        metavar="N",
        help="round the vocabulary up to a multiple of N, so that it splits evenly; export gives its own size back",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Imports; returns the exit code."""
    start = time.monotonic()
    source, parts = find_source(options.source), dict(map(_part, options.part))
    beside = check_new(options.out).parent
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mmjax-import-", dir=beside) as temporary:
        if parts:
            source, trained = Path(temporary) / "whole", source
            assemble(trained, parts, source)
        imported = import_checkpoint(source, options.out, dtype=options.dtype, pad_vocab_to=options.pad_vocab_to)
    summary = summarise(imported.parameters, {})
    record = {
        "family": imported.family.model_type,
        "parameters": summary["parameters"],
        "bytes": sum(part["bytes"] for part in summary["parts"].values()),
        "seconds": round(time.monotonic() - start, 1),
        "checkpoint": options.out,
    }
    if options.json:
        print(json.dumps(record))
        return 0
    print(f"family: {record['family']}")
    print(f"parameters: {record['parameters']:,} ({record['bytes'] / 1e6:,.2f} MB, {record['seconds']} s)")
    print(f"checkpoint: {options.out}")
    print(f"next: mmjax inspect {options.out}")
    return 0


def _part(text: str) -> tuple[str, Path]:
    name, equals, source = text.partition("=")
    if not equals or not name or not source:
        raise InputError(f"--part must be NAME=DIR, such as decoder=path/to/the/language/model, not {text!r}")
    return name, find_source(source)
