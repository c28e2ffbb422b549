"""The examples of each batch, as planned, or as read."""

from __future__ import annotations

import argparse
import functools
import itertools
import json

from mmjax.cli.data.batches import add_steps_argument, open_config, open_stream, steps_of
from mmjax.core.errors import InputError
from mmjax.data.segments import NAME, read_segments, split_steps
from mmjax.training.load import find_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax data ids`."""
    add_steps_argument(parser)
    parser.add_argument(
        "--workdir",
        default=None,
        metavar="DIR",
        help="as the run there read them, also where its data were changed on the way (its stream.json)",
    )
    parser.add_argument("--processes", type=int, default=1, metavar="P", help="as one of P processes")
    parser.add_argument("--process", type=int, default=0, metavar="p", help="as process p, counted from 0")
    parser.add_argument(
        "--workers",
        type=int,
        default=None,
        metavar="W",
        help="threads that read ahead: read every example with them (otherwise the ids are those planned)",
    )


def run(options: argparse.Namespace) -> int:
    """Prints a line a batch; returns the exit code."""
    steps = steps_of(options.steps)
    config, tokenizer = open_config(options)
    settings = {
        "process_index": options.process,
        "process_count": options.processes,
        "workers": options.workers,
    }
    if options.workdir is None:
        parts = [(functools.partial(open_stream, config, tokenizer), steps)]
    else:
        parts = [
            (functools.partial(segment.stream, tokenizer), part)
            for segment, part in split_steps(_segments(options.workdir), steps)
        ]
    for open_part, part in parts:
        _print_ids(open_part(start_step=part.start, **settings), part, options)
    return 0


def _segments(workdir):
    path, _ = find_run(workdir)
    segments = read_segments(path)
    if not segments:
        raise InputError(f"{path} has no {NAME}: the run has not begun, or is of an older version")
    return segments


def _print_ids(stream, steps, options):
    if options.workers is None:
        rows = ((step, stream.row_ids(step)) for step in steps)
    else:
        rows = ((item.step, item.ids) for item in itertools.islice(stream, len(steps)))
    for step, ids in rows:
        print(json.dumps({"step": step, "rows": ids}) if options.json else f"{step}\t{' '.join(ids)}")
