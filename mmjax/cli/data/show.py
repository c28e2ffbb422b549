"""A page that draws rows as the model gets them.

Pictures, tokens, what each token looks at, and where the loss is.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

from mmjax.cli.data.batches import add_steps_argument, open_config, open_stream, steps_of
from mmjax.core.errors import InputError
from mmjax.data.show import render_rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax data show`."""
    add_steps_argument(parser)
    parser.add_argument("--out", default="rows.html", metavar="FILE", help="where the page is written")


def run(options: argparse.Namespace) -> int:
    """Writes the page; returns the exit code."""
    steps = steps_of(options.steps)
    config, tokenizer = open_config(options)
    stream = open_stream(config, tokenizer, start_step=steps.start)
    try:
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        items = list(itertools.islice(stream, len(steps)))
        render_rows(items, tokenizer, options.out, dataset_names=stream.dataset_names)
    except OSError as error:
        raise InputError(f"{options.out} cannot be written: {error.strerror}") from None
    print(json.dumps({"page": options.out}) if options.json else f"wrote {options.out}")
    return 0
