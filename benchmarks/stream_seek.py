"""Times how soon a stream stands at example 10^8 of a mixture of 10^9, and what memory that takes besides the index.

    python -m benchmarks.stream_seek --folder /tmp/seek [--examples 1e9] [--sources 10] [--at 1e8] [--keep]

Only index files are written (about 7 GB for 10^9 examples: the lengths, which all data sets share here, and a plan of
rows for each): what stands in them is drawn at random, in the types and sizes that measuring and packing give. Then a
new process opens the stream, with the files dropped from the page cache as far as the system allows it, and asks for
the batch that holds example `--at`, for one after it, and for one 40 times as far. Memory is what of the process is not
mapped from a file (RssAnon), less what it was after importing. The folder is removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from mmjax.core.example import Example, Text
from mmjax.data import lengths, packing
from mmjax.data.config import DataConfig, SourceEntry
from mmjax.data.stream import BatchStream
from mmjax.text.tokenizer import ByteTokenizer

BATCH = 1024


class Indexed:
    """A data set of which there are index files alone."""

    fingerprint = "simulated"

    def __init__(self, name: str, count: int, cache: Path):
        self.name, self._count, self.cache = name, count, cache

    def __len__(self) -> int:
        return self._count

    def load(self, index: int, epoch: int) -> Example:
        return Example(f"{self.name}:{epoch}:{index}", (Text("a", loss=True),))


def open_stream(folder: Path, examples: int, sources: int) -> BatchStream:
    """The stream of so many data sets of `examples` each."""
    names = [f"d{number}" for number in range(sources)]
    config = DataConfig(
        sources={name: SourceEntry("simulated", 1.0 + number) for number, name in enumerate(names)},
        length=2048,
        images=16,
        image_size=8,
    )
    made = {name: Indexed(name, examples, folder) for name in names}
    return BatchStream(config, ByteTokenizer(), batch_size=BATCH, seed=0, sources=made, workers=0, rows=range(8))


def simulate_lengths(path, shape, source, how) -> None:
    """Lengths of 20 to 1,000 tokens and 0 to 6 images, as `mmjax.data.lengths` keeps them."""
    random = np.random.default_rng(0)
    table = np.lib.format.open_memmap(path, mode="w+", dtype=np.int32, shape=shape)
    for start in range(0, shape[1], 1 << 24):
        stop = min(start + (1 << 24), shape[1])
        table[0, start:stop] = random.integers(20, 1000, stop - start, np.int32)
        table[1, start:stop] = random.integers(0, 7, stop - start, np.int32)
    table.flush()
    path.with_suffix(".json").write_text(json.dumps({"digest": "0", "left_out": {}}))


def simulate_plan(stem, lengths_path, rule, name) -> None:
    """A plan of rows of one to seven examples, as `mmjax.data.packing` keeps it."""
    random = np.random.default_rng(rule.key)
    count = np.load(lengths_path, mmap_mode="r").shape[1]
    step = int(random.integers(count // 3, count // 2)) * 2 + 1  # odd, and so a permutation of a power of ten mostly
    ends = np.cumsum(random.integers(1, 8, count // 3, np.int8), dtype=np.int64)
    ends = np.append(ends[ends < count], count)
    with open(stem.with_suffix(".examples"), "wb") as file:
        for start in range(0, count, 1 << 24):
            numbers = np.arange(start, min(start + (1 << 24), count), dtype=np.int64)
            (numbers * step % count).astype(np.uint32).tofile(file)
    ends.tofile(stem.with_suffix(".ends"))
    random.integers(0, 17, len(ends), np.uint16).tofile(stem.with_suffix(".images"))
    stem.with_suffix(".json").write_text(json.dumps({"examples": count, "rows": len(ends), "too_long": 0}))


def drop_from_memory(folder: Path) -> None:
    """Asks the system to forget what it holds of the files."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def resident() -> dict[str, float]:
    """Memory of this process in MB, by what it is mapped from."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0][:-1]: int(words[1]) / 1000 for words in lines if words and words[0] in ("RssAnon:", "RssFile:")}


def seek(folder: Path, examples: int, sources: int, at: int) -> None:
    """Prints what opening and seeking cost."""
    before, started = resident(), time.monotonic()
    stream = open_stream(folder, examples, sources)
    opened = time.monotonic()
    step = at // 4 // BATCH  # rows hold four examples
    ids = stream.row_ids(step)
    found = time.monotonic()
    stream.read(step)
    read = time.monotonic()
    after = resident()
    stream.row_ids(step + 1)
    following = time.monotonic()
    stream.row_ids(40 * step)
    later = time.monotonic()
    print(f"opened in {opened - started:.2f} s; ids of batch {step} after {found - opened:.2f} s more: {ids[0][:60]}")
    print(f"its rows were read in {read - found:.2f} s; from nothing to a batch {read - started:.2f} s")
    print(f"the batch after it {following - read:.3f} s; one 40 times as far {later - following:.3f} s")
    for kind in after:
        print(f"{kind}: {before[kind]:.0f} MB after importing, {after[kind] - before[kind]:+.0f} MB then")


def main() -> int:
    """Writes the index files, and seeks in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="made here, with 8 GB to spare")
    parser.add_argument("--examples", type=float, default=1e9, help="of the whole mixture")
    parser.add_argument("--sources", type=int, default=10)
    parser.add_argument("--at", type=float, default=1e8)
    parser.add_argument("--keep", action="store_true", help="do not remove the folder")
    parser.add_argument("--seek", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    each = int(options.examples) // options.sources
    if options.seek:
        seek(options.folder, each, options.sources, int(options.at))
        return 0
    options.folder.mkdir(parents=True)
    try:
        lengths._measure_into, packing._write_plan = simulate_lengths, simulate_plan
        started = time.monotonic()
        open_stream(options.folder, each, options.sources)
        size = sum(path.stat().st_size for path in options.folder.iterdir())
        print(f"{options.sources} data sets of {each:,} examples; {size / 1e9:.2f} GB of index files written in "
              f"{time.monotonic() - started:.0f} s")  # fmt: skip
        drop_from_memory(options.folder)
        command = [sys.executable, "-m", "benchmarks.stream_seek", "--seek", *sys.argv[1:]]
        return subprocess.run(command, check=False).returncode
    finally:
        if not options.keep:
            shutil.rmtree(options.folder)


if __name__ == "__main__":
    sys.exit(main())
