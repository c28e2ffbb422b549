"""Prints how full packed rows are, and how evenly the images of a batch lie on devices.

    python -m benchmarks.stream_packing [--batches 100] [--batch 256]

Examples are 10 to 2,000 tokens long, evenly by their logarithm; rows hold 2,048, and windows 1,024 examples. The first
table compares the packing with best fit decreasing by tokens alone. The second tells, of pages of 1 to 6 images in rows
of at most 32, by how much the images of the fullest device exceed the mean: mean and worst of the batches, with rows in
the order that the mixture gives, and in that of `mmjax.data.balance`.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from mmjax.data.balance import even_order
from mmjax.data.packing import PackedRows, best_fit_decreasing, pack_window
from mmjax.data.source import Lengths

LENGTH, WINDOW = 2048, 1024


def tokens_of(count: int, random: np.random.Generator) -> np.ndarray:
    """Lengths of 10 to 2,000 tokens, evenly by their logarithm."""
    return np.exp(random.uniform(np.log(10), np.log(2000), count)).astype(np.int32)


def used(lengths: Lengths, images: int, pack) -> tuple[float, float]:
    """The share of places in rows that hold a token, and the standard deviation of the images of rows."""
    parts = [np.arange(start, start + WINDOW) for start in range(0, len(lengths.tokens), WINDOW)]
    rows = [row for part in parts for row in pack(part, lengths, LENGTH, images)]
    spread = np.std([lengths.images[row].sum() for row in rows])
    return float(lengths.tokens.sum() / (len(rows) * LENGTH)), float(spread)


def print_filling() -> None:
    """The table of how full rows are."""
    print("| images of an example | images a row | best fit by tokens: used, spread | here: used, spread |")
    print("|---|---|---|---|")
    random = np.random.default_rng(0)
    tokens = tokens_of(32 * WINDOW, random)
    kinds = {
        "1 to 6, whatever its length": random.integers(1, 7, len(tokens)),
        "one in 300 tokens, 1 to 6": np.clip(-(-tokens // 300), 1, 6),
        "1": np.ones(len(tokens)),
    }
    for kind, images in kinds.items():
        for bound in (16, 24, 32):
            lengths = Lengths(tokens, images.astype(np.int32))
            if bound < lengths.images.sum() / tokens.sum() * LENGTH:
                continue  # images would fill rows before tokens do
            (plain, plain_spread), (ours, spread) = (
                used(lengths, bound, pack) for pack in (best_fit_decreasing, pack_window)
            )
            print(f"| {kind} | {bound} | {plain:.1%}, {plain_spread:.1f} | {ours:.1%}, {spread:.1f} |")


def print_balance(batches: int, batch: int) -> None:
    """The table of how evenly images lie on devices."""
    random = np.random.default_rng(1)
    tokens = tokens_of(batches * batch * 6, random)
    lengths = Lengths(tokens, random.integers(1, 7, len(tokens)).astype(np.int32))
    packed = PackedRows(lengths, name="pages", seed=0, length=LENGTH, images=32, window=WINDOW)
    counts = packed.find(np.arange(batches * batch)).images.reshape(batches, batch)
    ordered = np.array([row[even_order(row.tolist())] for row in counts])
    print(f"\n| devices | rows each | as mixed: mean, worst of {batches} batches | in order: mean, worst |")
    print("|---|---|---|---|")
    devices = 2
    while devices <= min(64, batch):
        words = []
        for rows in (counts, ordered):
            sums = rows.reshape(batches, devices, -1).sum(axis=2)
            over = sums.max(axis=1) / sums.mean(axis=1) - 1
            words.append(f"{over.mean():.2%}, {over.max():.2%}")
        print(f"| {devices} | {batch // devices} | {words[0]} | {words[1]} |")
        devices *= 2


def main() -> int:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--batch", type=int, default=256, help="rows of a batch")
    options = parser.parse_args()
    print_filling()
    print_balance(options.batches, options.batch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
