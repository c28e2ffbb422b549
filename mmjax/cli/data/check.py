"""Reads every record wholly, and lists those that cannot be used.

Pictures are decoded, by all cores. What was found good is kept in the cache folder, so that an interrupted check goes
on where it stood; records that were bad are read again each time. Exit code 2: of some data set more than
data.max_bad_share cannot be used.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mmjax.cli.data.batches import add_source_argument, named_sources, open_config
from mmjax.cli.table import aligned, kinds
from mmjax.core.errors import InputError
from mmjax.data.check import check_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax data check`."""
    add_source_argument(parser)
    parser.add_argument(
        "--out", default="bad_records.jsonl", metavar="FILE", help="where the records that cannot be used are listed"
    )
    parser.add_argument("--again", action="store_true", help="read also what was found good before")


def run(options: argparse.Namespace) -> int:
    """Checks the data sets, prints a line for each, and lists their bad records; returns the exit code."""
    config, tokenizer = open_config(options)
    results = [
        check_source(name, config.data, tokenizer, seed=config.seed, again=options.again)
        for name in named_sources(config, options.source)
    ]
    try:
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        with open(options.out, "w", encoding="utf-8") as file:
            for result in results:
                file.writelines(json.dumps(finding._asdict()) + "\n" for finding in result.bad)
    except OSError as error:
        raise InputError(f"{options.out} cannot be written: {error.strerror}") from None
    allowed = config.data.max_bad_share
    over = [result.name for result in results if result.bad_share > allowed]
    if options.json:
        for result in results:
            print(json.dumps({**result._asdict(), "bad": dict(result.kinds), "bad_share": result.bad_share}))
        return InputError.exit_code if over else 0
    head = ("data set", "records", "read now", "good", "left out", "bad", "share", "kinds")
    rows = [
        (
            result.name,
            f"{result.records:,}",
            f"{result.read:,}",
            f"{result.good:,}",
            f"{result.filtered:,}",
            f"{len(result.bad):,}",
            f"{result.bad_share:.2%}",
            kinds(result.kinds),
        )
        for result in results
    ]
    print(aligned([head, *rows], left=(0, -1)))
    if any(result.bad for result in results):
        print(f"bad records are listed in {options.out}")
    if over:
        print(f"more than data.max_bad_share ({allowed:.2%}) of {', '.join(over)} cannot be used")
    return InputError.exit_code if over else 0
