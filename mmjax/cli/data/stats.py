"""Lengths, pictures, padding, shares of the data sets, what cannot be used, and duplicates.

Lengths and rows are those of all examples; bad pictures, learned tokens and duplicates are of a sample, drawn by the
seed, and so are the sizes of pictures, unless `data index --image-sizes` has kept those of all. Pictures look the same
where 64-bit perceptual hashes of them differ in few bits.
"""

from __future__ import annotations

import argparse
import json

from mmjax.cli.data.batches import add_source_argument, named_sources, open_config
from mmjax.cli.table import aligned, kinds
from mmjax.core.errors import InputError
from mmjax.data.statistics import QUANTILES, statistics

_BAR = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax data stats`."""
    add_source_argument(parser)
    parser.add_argument(
        "--sample", default="1000", metavar="N", help="read N examples of each data set, or all (default 1000)"
    )
    parser.add_argument(
        "--distance",
        type=int,
        default=4,
        metavar="BITS",
        help="pictures whose hashes differ in at most BITS of 64 look the same (default 4)",
    )


def run(options: argparse.Namespace) -> int:
    """Prints the statistics; returns the exit code."""
    if options.sample != "all" and not (options.sample.isdigit() and int(options.sample)):
        raise InputError(f"--sample must be a number of examples or all, not {options.sample!r}")
    if not 0 <= options.distance <= 15:
        raise InputError(f"--distance must be from 0 to 15, not {options.distance}")
    config, tokenizer = open_config(options)
    found = statistics(
        config.data,
        tokenizer,
        batch_size=config.batch_size,
        seed=config.seed,
        names=named_sources(config, options.source),
        sample=None if options.sample == "all" else int(options.sample),
        distance=options.distance,
    )
    print(json.dumps(found) if options.json else _page(found, config.data))
    return 0


def _page(found, data):
    parts = [_source_part(source, data) for source in found["sources"]]
    parts += [_shares_part(shares) for shares in found["shares"]]
    return "\n\n".join([*parts, _duplicates_part(found["duplicates"])])


def _source_part(source, data):
    left_out = f"; left out: {kinds(source['left_out'])}" if source["left_out"] else ""
    sample, images = source["sample"], source["images"]
    total = sum(images["counts"].values())
    bad = f"bad: {kinds(sample['bad'])}" if sample["bad"] else "none bad"
    by_number = ", ".join(f"{count / total:.1%} {number}" for number, count in list(images["counts"].items())[:8])
    lines = [
        f"{source['name']} ({source['kind']}): {source['examples']:,} examples{left_out}",
        f"  {source['rows']:,} rows of {data.length} tokens and {data.images} images: {source['padding']:.1%} padding, "
        f"{source['examples_a_row']:.1f} examples and {source['images_a_row']:.1f} images a row",
        f"  images an example: {images['mean']:.2f} ({by_number}{', ...' if len(images['counts']) > 8 else ''})",
        f"  a sample of {sample['examples']:,}, {bad}: {sample['learned']:.1%} of tokens learned, "
        f"{sample['pictures']:,} pictures",
        *_all_pictures(source["pictures"]),
        "",
        _quantiles_table(source),
        "",
        *_histogram(source["tokens"]["histogram"]),
    ]
    return "\n".join(lines)


def _all_pictures(pictures):
    if pictures is None:
        return ()
    unreadable = f"; {pictures['unreadable']:,} cannot be read" if pictures["unreadable"] else ""
    return (f"  sizes of all {pictures['measured']:,} pictures are kept: {pictures['megapixels']:.2f} MP{unreadable}",)


def _quantiles_table(source):
    head = ("", "least", *(f"{share:.0%}" for share in QUANTILES[1:-1]), "most")
    sides = source["pictures"] or source["sample"]
    rows = [("tokens an example", source["tokens"]["quantiles"])]
    rows += [(f"{side} side, pixels", sides[f"{side}_side"]) for side in ("shorter", "longer")]
    cells = [(what, *(f"{value:,}" for value in values)) for what, values in rows if values]
    return aligned([head, *cells], indent="  ")


def _histogram(ranges):
    most = max((entry["count"] for entry in ranges), default=1)
    rows = [
        (f"{entry['from']:,} to {entry['to'] - 1:,} tokens", f"{entry['count']:,}", "█" * _bar(entry["count"], most))
        for entry in ranges
    ]
    return [aligned(rows, left=(0, 2), indent="  ")]


def _bar(count, most):
    return max(1, round(_BAR * count / most)) if count else 0


def _shares_part(shares):
    whats = ("rows", "tokens", "images", "loss")
    rows = [(row["name"], *(f"{row[what]:.1%}" for what in whats)) for row in shares["sources"]]
    title = f"shares of the data sets, steps {shares['first_step']:,} to {shares['last_step']:,}"
    return f"{title}\n{aligned([('', *whats), *rows], indent='  ')}"


def _duplicates_part(found):
    if not found["pictures"]:
        return "no pictures to compare"
    shares = {what: f"{found[what]:,} ({found[what] / found['pictures']:.1%})" for what in ("same_file", "same_look")}
    rows = [
        ("the same file as one before", shares["same_file"]),
        (f"alike one before, to {found['distance']} of 64 bits", shares["same_look"]),
        ("of one shade, not compared", f"{found['plain']:,}"),
    ]
    lines = [f"duplicates among {found['pictures']:,} pictures", aligned(rows, left=(0, 1), indent="  ")]
    for group in found["groups"]:
        more = ", ..." if group["pictures"] > len(group["ids"]) else ""
        lines.append(f"  {group['pictures']:,} alike: {', '.join(group['ids'])}{more}")
    return "\n".join(lines)
