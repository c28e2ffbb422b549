"""Look at the data of a configuration, and prepare them.

mmjax data show --config C --out page.html        draws rows as the model gets them
mmjax data ids --config C --steps A:B             prints the examples of the batches A to B - 1
mmjax data index --config C                       indexes and measures the files, and counts what there is
mmjax data check --config C                       reads every record wholly, and lists those that cannot be used
mmjax data stats --config C                       lengths, pictures, padding, shares, duplicates
mmjax data convert --config C --source S --out D  writes a data set as ArrayRecord shards

`mmjax data WHAT --help` explains each.
"""

from __future__ import annotations

import argparse

from mmjax.cli.configs import add_config_argument
from mmjax.cli.data import check, convert, ids, index, show, stats
from mmjax.core.errors import InputError

WHAT = {"show": show, "ids": ids, "index": index, "check": check, "stats": stats, "convert": convert}


def add_arguments(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Arguments of `mmjax data`; returns the parser of each of its verbs, which take those of all of them too."""
    add_config_argument(parser, required=False)
    parser.add_argument("--json", action="store_true", help="print JSON")
    verbs = parser.add_subparsers(dest="what", required=True)
    for name, module in WHAT.items():
        summary = module.__doc__.partition("\n")[0]
        child = verbs.add_parser(name, help=summary, description=module.__doc__, formatter_class=parser.formatter_class)
        add_config_argument(child, required=False, default=argparse.SUPPRESS)
        child.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
        module.add_arguments(child)
        child.set_defaults(run_what=module.run)
    return list(verbs.choices.values())


def run(options: argparse.Namespace) -> int:
    """Runs one of the verbs; returns the exit code."""
    if options.config is None:
        raise InputError(f"mmjax data {options.what} needs --config FILE")
    return options.run_what(options)
