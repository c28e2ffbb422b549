"""Prints the memory of a process that reads tens of thousands of examples, every some thousand.

    python -m benchmarks.stream_memory [--examples 50000] [--workers 2]

The data are a tar of small JPEGs with captions, and a .jsonl that names pictures in a folder, both written first; rows
are packed. Of the memory, what is mapped from files (the index, and what the system keeps of them) is told apart. The
last line compares the end with the first mark.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from mmjax.core.config import build
from mmjax.data.config import DataConfig
from mmjax.data.stream import BatchStream
from mmjax.text.tokenizer import ByteTokenizer

FILES = 2000


def write_data(folder: Path) -> DataConfig:
    """A tar and a .jsonl of 2,000 pictures each; the mixture of both."""
    random, lines = np.random.default_rng(0), []
    with tarfile.open(folder / "0.tar", "w") as archive:
        for number in range(FILES):
            file = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (64, 80, 3), np.uint8)).save(file, "JPEG", quality=70)
            (folder / f"{number}.jpg").write_bytes(file.getvalue())
            text = "word " * int(random.integers(1, 40))
            lines.append(json.dumps({"image": f"{number}.jpg", "text": text}) + "\n")
            for name, data in ((f"{number}.jpg", file.getvalue()), (f"{number}.txt", text.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    (folder / "a.jsonl").write_text("".join(lines))
    sources = {
        "tar": {"kind": "webdataset", "options": {"paths": [str(folder / "0.tar")]}},
        "lines": {"kind": "jsonl", "options": {"paths": [str(folder / "a.jsonl")]}},
    }
    return build(DataConfig, {"sources": sources, "length": 512, "images": 8, "image_size": 32})


def resident() -> dict[str, float]:
    """Memory of this process in MB, by what it is mapped from."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0][:-1]: int(words[1]) / 1000 for words in lines if words and words[0] in ("RssAnon:", "RssFile:")}


def main() -> int:
    """Prints a line every tenth; the exit code is 1 where memory grew by more than a twentieth after the second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = write_data(Path(folder))
        stream = BatchStream(config, ByteTokenizer(), batch_size=16, seed=0, workers=options.workers)
        seen, marks, started = 0, [], time.monotonic()
        for item in stream:
            seen += sum(row.count("+") + 1 for row in item.ids)
            if seen >= (len(marks) + 1) * options.examples / 10:
                memory = resident()
                marks.append(memory["RssAnon"])
                words = ", ".join(f"{kind} {size:.0f} MB" for kind, size in memory.items())
                print(f"{seen} examples: {words} ({seen / (time.monotonic() - started):.0f} a second)", flush=True)
            if seen >= options.examples:
                break
    growth = marks[-1] / marks[1] - 1
    print(f"from a fifth of the examples to all: {growth:+.1%}")
    return 0 if growth <= 0.05 else 1


if __name__ == "__main__":
    sys.exit(main())
