"""Look at the rows that a configuration trains on.

mmjax data show --config C --out page.html     draws rows as the model gets them
mmjax data ids --config C --steps A:B          prints the examples of the batches A to B - 1 (the first is 0)
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

from mmjax.cli.configs import add_config_argument, load_config
from mmjax.core.errors import InputError
from mmjax.data.show import render_rows
from mmjax.data.stream import BatchStream
from mmjax.text.tokenizer import make_tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax data`."""
    parser.add_argument("what", choices=("show", "ids"), help="show: a page of rows; ids: the examples of each batch")
    add_config_argument(parser, required=True)
    parser.add_argument(
        "--steps", default="0:1", metavar="A:B", help="batches A to B - 1, counted from 0 (default 0:1)"
    )
    parser.add_argument("--out", default="rows.html", metavar="FILE", help="show: where the page is written")
    parser.add_argument("--processes", type=int, default=1, metavar="P", help="ids: as one of P processes")
    parser.add_argument("--process", type=int, default=0, metavar="p", help="ids: as process p, counted from 0")
    parser.add_argument(
        "--workers",
        type=int,
        default=None,
        metavar="W",
        help="threads that read ahead; ids: read every example with them (otherwise the ids are those planned)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Shows rows or their ids; returns the exit code."""
    config = load_config(options.config, options.overrides)
    first, stop = _range(options.steps)
    tokenizer = make_tokenizer(config.tokenizer)
    stream = BatchStream(
        config.data,
        tokenizer,
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=first,
        process_index=options.process,
        process_count=options.processes,
        workers=options.workers,
    )
    items = itertools.islice(stream, stop - first)
    if options.what == "show":
        try:
            Path(options.out).parent.mkdir(parents=True, exist_ok=True)
            render_rows(list(items), tokenizer, options.out, dataset_names=stream.dataset_names)
        except OSError as error:
            raise InputError(f"{options.out} cannot be written: {error.strerror}") from None
        print(json.dumps({"page": options.out}) if options.json else f"wrote {options.out}")
        return 0
    if options.workers is None:
        rows = ((step, stream.row_ids(step)) for step in range(first, stop))
    else:
        rows = ((item.step, item.ids) for item in items)
    for step, ids in rows:
        print(json.dumps({"step": step, "rows": ids}) if options.json else f"{step}\t{' '.join(ids)}")
    return 0


def _range(text: str) -> tuple[int, int]:
    first, colon, stop = text.partition(":")
    if not (colon and first.isdigit() and stop.isdigit() and int(first) < int(stop)):
        raise InputError(f"--steps must be A:B with A below B, such as 0:10, not {text!r}")
    return int(first), int(stop)
