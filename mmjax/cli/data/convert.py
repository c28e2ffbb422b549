"""Writes a data set as ArrayRecord shards, which the kind array_record reads back to the same examples.

Pictures keep the bytes that they have, unless --size asks for smaller ones. What is interrupted goes on by shards. What
follows -- are options of Apache Beam, for --runner beam:

  mmjax data convert --config C --source S --out D --runner beam -- --direct_num_workers=0
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path

from mmjax.cli.configs import load_config
from mmjax.cli.table import kinds
from mmjax.core.config import to_tree
from mmjax.core.errors import InputError
from mmjax.data.beam import run_pipeline
from mmjax.data.config import make_source
from mmjax.data.convert import Conversion, convert, default_shards
from mmjax.data.sources.options import FilesOptions

# How pictures are drawn, which shards do not say, and what it is where nothing is said.
_OF_PICTURES = {
    name: value
    for name, value in to_tree(FilesOptions(paths=("",))).items()
    if name not in ("paths", "cache", "end_of_chunk")
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax data convert`."""
    parser.add_argument("--source", required=True, metavar="NAME", help="the data set of the configuration")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the shards")
    parser.add_argument("--shards", type=int, metavar="N", help="how many shards (default: of some 10,000 records)")
    parser.add_argument(
        "--size", type=int, default=0, metavar="PX", help="shrink pictures to a shorter side of PX pixels, as JPEG"
    )
    parser.add_argument("--quality", type=int, metavar="Q", help="quality of those, 1 to 95 (default 90)")
    parser.add_argument(
        "--runner", choices=("local", "beam"), default="local", help="processes of this machine, or Apache Beam"
    )
    parser.set_defaults(passed_on=())


def run(options: argparse.Namespace) -> int:
    """Converts the data set and prints how to read it; returns the exit code."""
    if options.quality is not None and not options.size:
        raise InputError("--quality is that of pictures that --size shrinks: give --size too")
    if options.passed_on and options.runner != "beam":
        raise InputError(f"{options.passed_on[0]} is an option of Beam: give --runner beam too")
    config = load_config(options.config, options.overrides)
    entry = config.data.entry(options.source)
    source = make_source(entry, name=options.source, seed=config.seed, image_size=config.data.image_size)
    kept = {"kind": entry.kind, "options": to_tree(entry.settings(options.source)), "seed": config.seed}
    conversion = Conversion(
        source,
        {**kept, "image_size": config.data.image_size},
        Path(options.out).expanduser().absolute(),
        shards=options.shards if options.shards is not None else default_shards(source),
        size=options.size,
        quality=90 if options.quality is None else options.quality,
    )
    run_shards = functools.partial(run_pipeline, options=options.passed_on) if options.runner == "beam" else None
    facts = convert(conversion, run=run_shards)
    print(json.dumps(facts) if options.json else _summary(conversion, facts, entry))
    return 0


def _summary(conversion, facts, entry):
    paths = f"{conversion.folder}/{facts['name']}-*.array_record"
    given = {name: value for name, value in to_tree(entry.settings(facts["name"])).items() if name in _OF_PICTURES}
    drawn = {name: value for name, value in given.items() if value != _OF_PICTURES[name]}
    lines = [
        f"{facts['name']}: {facts['examples']:,} examples and {facts['pictures']:,} pictures in "
        f"{len(facts['shards']):,} shard{'s' * (len(facts['shards']) > 1)}, {facts['bytes'] / 1e6:,.1f} MB",
        f"read by { {'kind': 'array_record', 'options': {'paths': [paths], **drawn}} }",
    ]
    if facts["left_out"]:
        lines.insert(1, f"left out: {kinds(facts['left_out'])}; listed in {facts['name']}.bad_records.jsonl")
    return "\n".join(lines)
