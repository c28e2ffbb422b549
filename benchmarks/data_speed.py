"""How fast pictures and texts become batches, and what that costs beside decoding them.

    python -m benchmarks.data_speed [--rivals-python PYTHON] [--pictures 600] [--rounds 5] [--keep FOLDER]

Writes JPEGs of 640 x 480 pixels and captions into a tar file, and prints three tables, all in pictures a second of
processor time (which other programs on the machine disturb less than the time that passes), each the median of rounds,
with the extremes (of the second table, with the quartiles):

1. decoders: a JPEG in memory -> 224 x 224 pixels, the middle cut out, by what pip gives;
2. the pipeline: tar -> decoded, tokenised, packed batches of `BatchStream`, against decoding and resizing alone, by the
   quickest row of the first table (each result dropped at once, or as many kept as a batch holds) and by `load_image`,
   in many short turns in one process;
3. the pipeline in turns with webdataset + torch's DataLoader and with tf.data over the same pictures
   (`benchmarks/data_rivals.py`). Neither is needed by mmjax: PYTHON is an interpreter that has webdataset and torch, or
   tensorflow; what it lacks is left out.

Pictures are synthetic (smooth shapes and grain, about 80 KB at quality 85).
"""

from __future__ import annotations

import argparse
import io
import itertools
import statistics
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from benchmarks.alternate import SideError, Work, compare, serve, spread, table
from mmjax.data.config import DataConfig, SourceEntry
from mmjax.data.images import load_image
from mmjax.data.stream import BatchStream
from mmjax.text.tokenizer import ByteTokenizer

HEIGHT, WIDTH, SIDE = 480, 640, 224
ROWS = 32
PICTURES_A_BATCH = 100  # about what its rows hold
_SHORT_ROUNDS = 12
DISTINCT = 100
WORDS = "a the dog cat house tree water sky red blue small big near under on with man woman child street light"
NEEDS = {"webdataset": ("webdataset", "torch"), "tfdata": ("tensorflow",)}


def photo(seed: int) -> bytes:
    """A JPEG whose detail at all scales is about that of a photograph."""
    random = np.random.default_rng(seed)
    picture = cv2.resize(random.integers(0, 256, (12, 16, 3), np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    grain = cv2.resize(random.normal(0, 25, (HEIGHT // 4, WIDTH // 4, 3)).astype(np.float32), (WIDTH, HEIGHT))
    picture = picture + grain + random.normal(0, 6, picture.shape)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def write_files(folder: Path, pictures: Sequence[bytes]) -> None:
    """`pictures.tar` and `pictures.tfrecord` of the same pictures and captions of 6 to 24 words."""
    random = np.random.default_rng(0)
    with tarfile.open(folder / "pictures.tar", "w") as tar, open(folder / "pictures.tfrecord", "wb") as records:
        for number, picture in enumerate(pictures):
            text = " ".join(random.choice(WORDS.split(), random.integers(6, 25))).encode()
            for extension, data in (("jpg", picture), ("txt", text)):
                member = tarfile.TarInfo(f"{number:06d}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            record = _field(1, b"".join(_feature(*entry) for entry in (("image", picture), ("text", text))))
            header = struct.pack("<Q", len(record))
            records.write(header + _checksum(header) + record + _checksum(record))


def by_pillow(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.BICUBIC))


def by_draft(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (SIDE, SIDE))
    return np.asarray(ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.BICUBIC))


def by_opencv(data: bytes) -> np.ndarray:
    return _middle(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB), cv2.INTER_AREA)


def by_opencv_reduced(data: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_COLOR_2)
    return _middle(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), cv2.INTER_LINEAR)


def by_simplejpeg_area(data: bytes) -> np.ndarray:
    return _middle(simplejpeg.decode_jpeg(data, "RGB", min_height=SIDE, min_width=SIDE), cv2.INTER_AREA)


def by_simplejpeg(data: bytes) -> np.ndarray:
    return _middle(simplejpeg.decode_jpeg(data, "RGB", min_height=SIDE, min_width=SIDE), cv2.INTER_LINEAR)


def by_mmjax(data: bytes) -> np.ndarray:
    return load_image(data, size=SIDE)


DECODERS = {
    "Pillow, bicubic": by_pillow,
    "Pillow draft, bicubic": by_draft,
    "OpenCV, area": by_opencv,
    "OpenCV at half scale, linear": by_opencv_reduced,
    "simplejpeg scaled, OpenCV area": by_simplejpeg_area,
    "simplejpeg scaled, OpenCV linear": by_simplejpeg,
    "mmjax.data.images.load_image": by_mmjax,
}


class Pipeline:
    """The whole of mmjax's: an endless stream read in the calling thread, so that processor time is its own."""

    def __init__(self, folder: Path):
        entry = SourceEntry("webdataset", options={"paths": (str(folder / "pictures.tar"),)})
        config = DataConfig({"pictures": entry}, length=256, images=4, image_size=SIDE, workers=0)
        self._batches = iter(BatchStream(config, ByteTokenizer(), batch_size=ROWS, seed=0))

    def read(self, count: int) -> int:
        """Reads batches of at least `count` pictures together; how many they have."""
        read = 0
        while read < count:
            read += int(next(self._batches).batch.image_mask.sum())
        return read


def rates(ways: Mapping[str, Callable[[int], int]], count: int, rounds: int) -> dict[str, list[float]]:
    """Pictures a second of processor time for each way, by rounds; a way is told how many, and gives how many it read.

    The ways take turns.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = time.process_time()
            done = way(count)
            if number:  # the first round warms up
                found[name].append(done / (time.process_time() - began))
    return found


def decoding(
    decode: Callable[[bytes], np.ndarray], pictures: Sequence[bytes], *, kept: int = 0
) -> Callable[[int], int]:
    """A way that decodes pictures, one after another, on from where it stood.

    kept: so many results are held at a time, as a batch must hold its pictures; else each is dropped at once, and the
    next lies where it lay, in a cache.
    """
    coming = itertools.cycle(pictures)

    def way(count: int) -> int:
        held: list[np.ndarray] = []
        for data in itertools.islice(coming, count):
            made = decode(data)
            if kept:
                if len(held) == kept:
                    held.clear()
                held.append(made)
        return count

    return way


def print_decoders(pictures: Sequence[bytes], rounds: int) -> None:
    found = rates({name: decoding(way, pictures) for name, way in DECODERS.items()}, len(pictures) // 2, rounds)
    print(table(("decoder", "pictures a CPU second"), [(name, spread(figures)) for name, figures in found.items()]))


def print_pipeline(folder: Path, pictures: Sequence[bytes], rounds: int) -> None:
    """In rounds of one batch: the shorter they are, the more alike the machine is to all that take turns in one."""
    ways = {
        "decode and resize (simplejpeg, linear), each dropped": decoding(by_simplejpeg, pictures),
        "the same, a batch of them kept": decoding(by_simplejpeg, pictures, kept=PICTURES_A_BATCH),
        "load_image, each dropped": decoding(by_mmjax, pictures),
        "tar to packed batches": Pipeline(folder).read,
    }
    found = rates(ways, PICTURES_A_BATCH, _SHORT_ROUNDS * rounds)
    whole = found["tar to packed batches"]
    rows = [
        (name, _half(figures, ".4g"), _half([ours / other for ours, other in zip(whole, figures, strict=True)], ".3f"))
        for name, figures in found.items()
    ]
    print(table(("", "pictures a CPU second", "the pipeline over it"), rows))


def print_rivals(folder: Path, python: str, count: int, rounds: int) -> None:
    rows = []
    for family, needs in NEEDS.items():
        imports = "; ".join(f"import {name}" for name in needs)
        if subprocess.run([python, "-c", imports], capture_output=True).returncode:
            print(f"{family} is left out: {python} lacks {' or '.join(needs)} (pip install {' '.join(needs)})")
            continue
        for name in (family, f"{family}_fast"):
            ours = [sys.executable, "-m", "benchmarks.data_speed", "--serve", str(folder), "--pictures", str(count)]
            rival = [python, "-m", "benchmarks.data_rivals", name, str(folder)]
            try:
                timed = compare({"ours": ours, "torch": rival}, ["epoch"], rounds=rounds)["epoch"]
            except SideError as error:
                print(f"{name} is left out: {error}")
                continue
            theirs = spread([count / seconds for seconds in timed.torch_busy])
            rows.append((name, theirs, spread([count / s for s in timed.ours_busy]), spread(timed.busy_ratios)))
    if rows:
        print(table(("loader", "pictures a CPU second", "mmjax in turns with it", "mmjax over it"), rows))


def _half(values, spelled):
    """The median, and between what the middle half of them lies."""
    low, median, high = (format(value, spelled) for value in statistics.quantiles(values, n=4, method="inclusive"))
    return f"{median} ({low} to {high})"


def _middle(pixels, how):
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return cv2.resize(pixels[top : top + side, left : left + side], (SIDE, SIDE), interpolation=how)


def _varint(number):
    digits = []
    while number >= 128:
        digits.append(number % 128 + 128)
        number //= 128
    return bytes([*digits, number])


def _field(number, data):
    return _varint(number * 8 + 2) + _varint(len(data)) + data


def _feature(name, data):
    return _field(1, _field(1, name.encode()) + _field(2, _field(1, _field(1, data))))


def _checksum(data):
    """The masked CRC-32C of a TFRecord file."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _crc_table():
    rows = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        rows.append(number)
    return rows


_CRC = _crc_table()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data_speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rivals-python", default=sys.executable, help="an interpreter with webdataset or tensorflow")
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="a folder for the files, instead of one that is removed")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        pipeline = Pipeline(arguments.serve)
        serve(lambda: Work({"epoch": lambda: pipeline.read(arguments.pictures)}))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        distinct = [photo(seed) for seed in range(min(DISTINCT, arguments.pictures))]
        pictures = [distinct[number % len(distinct)] for number in range(arguments.pictures)]
        write_files(folder, pictures)
        mean = statistics.mean(map(len, pictures)) / 1000
        print(f"{len(pictures)} JPEGs of {WIDTH} x {HEIGHT}, {mean:.0f} KB each, {arguments.rounds} rounds\n")
        print_decoders(pictures, arguments.rounds)
        print_pipeline(folder, pictures, arguments.rounds)
        print_rivals(folder, arguments.rivals_python, len(pictures), arguments.rounds)


if __name__ == "__main__":
    main()
