"""Prints hashes of what the global batches hold, by processes, workers, resumed or not, packed or not.

    python -m benchmarks.stream_ids [--steps 40] [--batch 16]

The data are digit scans and pages of a .jsonl that it writes, some with pictures that cannot be read, mixed by weights
that change linearly. For each row of the table every process of so many reads its rows of every batch with so many
threads; the ids of the examples (as read, with what took the place of bad records) are joined to global batches, and
hashed, and so are the arrays, and the ids that were planned before a bad record was replaced. Resumed streams are made
anew at a third and at two thirds of the steps. All hashes of packed rows must be the same, all of unpacked ones, and
those of one version of Python those of another.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import io
import itertools
import json
import platform
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from mmjax.core.config import build
from mmjax.data.config import DataConfig
from mmjax.data.stream import BatchStream
from mmjax.text.tokenizer import ByteTokenizer

PROCESSES = (1, 2, 4, 8)
WORKERS = (0, 1, 2, 3, 4)


def write_pages(folder: Path, count: int = 600) -> Path:
    """A .jsonl of pages of one to four pictures and texts of 5 to 200 letters; every ninth picture is cut off."""
    random = np.random.default_rng(0)
    for number in range(30):
        pixels = random.integers(0, 256, (40, 40, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG")
        (folder / f"{number}.jpg").write_bytes(file.getvalue()[: 400 if number % 9 == 5 else None])
    lines = []
    for _ in range(count):
        segments = []
        for _ in range(random.integers(1, 5)):
            segments.append({"image": f"{random.integers(30)}.jpg"})
            segments.append({"text": "x" * int(np.exp(random.uniform(np.log(5), np.log(200))))})
        lines.append(json.dumps({"segments": segments}) + "\n")
    (folder / "pages.jsonl").write_text("".join(lines))
    return folder / "pages.jsonl"


def make_config(pages: Path, steps: int, *, pack: bool) -> DataConfig:
    """The mixture: mostly scans at first, mostly pages at the end."""
    return build(
        DataConfig,
        {
            "sources": {
                "pages": {"kind": "jsonl", "options": {"paths": [str(pages)]}, "max_tokens": 480},
                "read": {"kind": "digits_read", "weight": 3.0, "options": {"count": 900}},
                "bind": {"kind": "digits_bind", "options": {"count": 400, "shots": [1, 2]}},
            },
            "phases": [
                {"first_step": steps // 4},
                {"first_step": steps, "weights": {"pages": 5.0, "read": 1.0}, "reached": "linearly"},
            ],
            "pack": pack,
            "length": 512,
            "images": 12,
            "window": 128,
            "max_bad_share": 1.0,
            "next_image_probability": 0.5,
        },
    )


def digests(config: DataConfig, steps: int, batch: int, processes: int, workers: int, starts: tuple[int, ...]):
    """Hashes of all ids and of all arrays, the planned ids, and how many records were replaced."""
    ids, arrays, planned, replaced = hashlib.sha256(), hashlib.sha256(), hashlib.sha256(), 0
    for start, stop in itertools.pairwise((*starts, steps)):
        streams = [
            BatchStream(
                config,
                ByteTokenizer(),
                batch_size=batch,
                seed=7,
                start_step=start,
                process_index=process,
                process_count=processes,
                workers=workers,
            )
            for process in range(processes)
        ]
        for step, *items in zip(range(start, stop), *streams, strict=False):
            ids.update(repr((step, [row for item in items for row in item.ids])).encode())
            planned.update(repr((step, [row for stream in streams for row in stream.row_ids(step)])).encode())
            for leaves in zip(*(jax.tree.leaves(item.batch) for item in items), strict=True):
                arrays.update(np.concatenate(leaves).tobytes())
            replaced += sum(len(item.bad_records) for item in items)
    return ids.hexdigest()[:16], arrays.hexdigest()[:16], planned.hexdigest()[:16], replaced


def main() -> int:
    """Prints the table; the exit code is 1 where hashes differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=16, help="rows of a global batch, a multiple of 8")
    options = parser.parse_args()
    started, found = time.monotonic(), collections.defaultdict(set)
    print(f"Python {platform.python_version()}, {options.steps} batches of {options.batch} rows\n")
    print("| packed | processes | workers | resumed | ids | arrays | planned | replaced |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        pages = write_pages(Path(folder))
        for pack in (True, False):
            config = make_config(pages, options.steps, pack=pack)
            for processes, workers, resumed in itertools.product(PROCESSES, WORKERS, (False, True)):
                starts = (0, options.steps // 3, 2 * options.steps // 3) if resumed else (0,)
                result = digests(config, options.steps, options.batch, processes, workers, starts)
                found[pack].add(result)
                words = (pack, processes, workers, resumed, *result)
                print("| " + " | ".join(map(str, words)) + " |", flush=True)
    same = all(len(results) == 1 for results in found.values())
    print(f"\nall equal: {same} ({time.monotonic() - started:.0f} s)")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
