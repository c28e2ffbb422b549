"""Indexes and measures the files, which a run does first, and counts what there is.

By all cores, with progress; what is interrupted goes on where it stood.
"""

from __future__ import annotations

import argparse
import functools
import json

from mmjax.cli.data.batches import add_source_argument, named_sources, open_config, open_stream
from mmjax.cli.table import kinds
from mmjax.data.config import make_source
from mmjax.data.keyed import key_of
from mmjax.data.picture_sizes import measure_sizes
from mmjax.data.source import StoredSource
from mmjax.data.verify import verify_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax data index`."""
    add_source_argument(parser)
    parser.add_argument(
        "--image-sizes",
        action="store_true",
        help="also keep the height and width of every picture, by the heads of their files, which `data stats` reads",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="first index 16 files and measure 256 examples of each data set again, and make anew what differs",
    )


def run(options: argparse.Namespace) -> int:
    """Prints a line a data set; returns the exit code."""
    config, tokenizer = open_config(options)
    names = named_sources(config, options.source)
    verified = {name: _verify(config, tokenizer, name) for name in names} if options.verify else {}
    for sizes in open_stream(config, tokenizer).sizes():
        if sizes["name"] not in names:
            continue
        if options.image_sizes:
            sizes["pictures"] = _pictures(config, sizes["name"])
        found = verified.get(sizes["name"])
        if options.json:
            print(json.dumps(sizes | ({"verified": found._asdict()} if found else {})))
            continue
        print(_sizes_line(sizes))
        if options.image_sizes:
            print(_pictures_line(sizes["pictures"]))
        if found:
            print(f"  verified {found.files:,} files and {found.examples:,} examples" + ": as kept" * (not found.wrong))
            print("".join(f"  {line}; made anew\n" for line in found.wrong), end="")
    return 0


def _verify(config, tokenizer, name):
    entry = config.data.entry(name)
    limits = entry.limits(key_of(config.seed, name))
    source = functools.partial(make_source, entry, name=name, seed=config.seed, image_size=config.data.image_size)
    return verify_source(source, tokenizer, config.data.layout, limits)


def _pictures(config, name):
    """How many pictures a data set has, and how many of them have no head that can be read; None: no files."""
    entry = config.data.entry(name)
    source = make_source(entry, name=name, seed=config.seed, image_size=config.data.image_size)
    if not isinstance(source, StoredSource):
        return None
    table = measure_sizes(source)
    return {"measured": int((table[:, 1] > 0).sum()), "unreadable": int((table[:, 1] == 0).sum())}


def _pictures_line(pictures):
    if pictures is None:
        return "  its pictures are drawn, and have no files"
    return f"  sizes of {pictures['measured']:,} pictures are kept; {pictures['unreadable']:,} cannot be read"


def _sizes_line(sizes):
    counts = f"{sizes['examples']:,} examples, {sizes['rows']:,} rows"
    line = f"{sizes['name']}: {counts}, {sizes['used']:.1%} of their tokens used"
    return f"{line}; left out: {kinds(sizes['left_out'])}" if sizes["left_out"] else line
