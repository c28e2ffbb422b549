"""A corpus of broken and hostile files, and what each is to be called. As a program it reads one and tells its peak.

python -m tests.faults.hostile_files FOLDER clean|hostile
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import pickle
import resource
import struct
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from mmjax.core.config import build
from mmjax.core.errors import DataError
from mmjax.data.config import DataConfig
from mmjax.data.stream import BatchStream
from mmjax.text.tokenizer import ByteTokenizer
from tests.data.sources.made import make, picture, write_tar

WHOLE = "whole"  # what a picture that can be read is called
SIDE = 4


class Payload:
    """Unpickled, it writes a file: nobody may unpickle it."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width, height, rows=b"", extra=b""):
    """A PNG that says it is so large, whatever pixels it has."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff_of(width, height):
    """A TIFF of one strip that says it is so large."""
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 10)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 18) + b"\0" * 10 + struct.pack("<H", len(tags)) + entries + bytes(4)


def saved(image, kind, **settings):
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def noisy(mode="RGB", side=48):
    random = np.random.default_rng(0)
    return Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8)).convert(mode)


def turned(turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    return saved(noisy(), "JPEG", exif=exif)


def flipped(data, places):
    data = bytearray(data)
    for place in places:
        data[place] ^= 0xFF
    return bytes(data)


def picture_files(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Files of pictures by name: their bytes, and what each is called."""
    jpeg, png, tiff = saved(noisy(), "JPEG"), saved(noisy(), "PNG"), saved(noisy(), "TIFF", compression="tiff_lzw")
    bmp, gif = saved(noisy(side=8), "BMP"), saved(noisy("P", 8), "GIF")
    bomb = zlib.compress(bytes(40_000_000), 9)
    return {
        "cut_at_2.jpg": (jpeg[:2], "not_an_image"),
        "cut_in_header.jpg": (jpeg[:100], "truncated"),
        "cut_in_half.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "cut_before_end.jpg": (jpeg[:-40], "truncated"),
        "cut_in_half.png": (png[: len(png) // 2], "truncated"),
        "cut_before_end.png": (png[:-30], "truncated"),
        "cut_in_half.tiff": (tiff[: len(tiff) // 2], "not_an_image"),  # its directory stands at the end
        "wrong_checksum.png": (flipped(png, [-20]), "corrupt"),
        "pixel_bomb.png": (png_of(60_000, 60_000, bytes(1000)), "too_large"),
        "wide_bomb.png": (png_of(2**31 - 1, 1, bytes(1000)), "too_large"),
        "text_bomb.png": (png_of(24, 24, bytes(73 * 24), chunk(b"zTXt", b"Comment\0\0" + bomb)), "corrupt"),
        "profile_bomb.png": (png_of(24, 24, bytes(73 * 24), chunk(b"iCCP", b"icc\0\0" + bomb)), "corrupt"),
        "pixel_bomb.tiff": (tiff_of(65_000, 65_000), "too_large"),
        "pixel_bomb.bmp": (bmp[:18] + struct.pack("<ii", 50_000, 50_000) + bmp[26:], "too_large"),
        "pixel_bomb.gif": (gif[:6] + struct.pack("<HH", 65_535, 65_535) + gif[10:], "too_large"),
        "one_pixel.png": (saved(noisy(side=1), "PNG"), "too_small"),
        "empty.jpg": (b"", "not_an_image"),
        "text.jpg": (b"this is no picture", "not_an_image"),
        "page.jpg": (b"<!DOCTYPE html><html>404</html>", "not_an_image"),
        "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not_an_image"),
        "archive.jpg": (b"PK\x03\x04" + bytes(100), "not_an_image"),
        "program.png": (b"\x7fELF" + bytes(100), "not_an_image"),
        "postscript.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/x) (w) file", "not_an_image"),
        "weights.pth": (pickle.dumps(Payload(folder / "unpickled_pth")), "not_an_image"),
        "array.npy": (b"\x93NUMPY\x01\0" + pickle.dumps(Payload(folder / "unpickled_npy")), "not_an_image"),
        "module.pyd": (b"MZ" + bytes(300), "not_an_image"),
        "jpeg_named.png": (jpeg, WHOLE),
        "png_named.jpg": (png, WHOLE),
        "no_extension": (jpeg, WHOLE),
        "cmyk.jpg": (saved(noisy("CMYK"), "JPEG"), WHOLE),
        "sixteen_bits.png": (saved(Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30)), "PNG"), WHOLE),
        "palette.png": (saved(noisy("P"), "PNG", transparency=0), WHOLE),
        "one_bit.png": (saved(noisy("1"), "PNG"), WHOLE),
        "two_channels.png": (saved(noisy("LA"), "PNG"), WHOLE),
        "animated.gif": (saved(noisy("P"), "GIF", save_all=True, append_images=[noisy("P")] * 3), WHOLE),
        **{f"turned_{turn}.jpg": (turned(turn), WHOLE) for turn in (2, 3, 5, 6, 8, 99)},
    }


def place_files(folder: Path) -> dict[str, str]:
    """What a record may name instead of a picture, and what each is called."""
    (folder / "a_folder").mkdir()
    os.mkfifo(folder / "a_pipe")
    (folder / "looped").symlink_to("looped")
    (folder.parent / "outside.jpg").write_bytes(picture(0))
    return {
        "gone.jpg": "missing",
        "looped": "missing",
        "x" * 5000: "missing",
        "a_folder": "hostile_path",
        "a_pipe": "hostile_path",
        "../outside.jpg": "hostile_path",
        str(folder.parent / "outside.jpg"): "hostile_path",
        "a/../../outside.jpg": "hostile_path",
        "/etc/passwd": "hostile_path",
        "/dev/zero": "hostile_path",
        "a\0b.jpg": "hostile_path",
        "\ud800.jpg": "hostile_path",
        "http://127.0.0.1:9/x.jpg": "address",
        "file:///etc/passwd": "address",
        "gs://bucket/x.jpg": "address",
        "data:image/png;base64,!!!": "corrupt",
        "data:image/png;base64," + base64.b64encode(b"no picture").decode(): "not_an_image",
        "data:image/png;base64," + base64.b64encode(picture(0, "PNG")).decode(): WHOLE,
    }


def line_files() -> dict[str, tuple[bytes, str]]:
    """Lines of a .jsonl by what is wrong with them."""

    def text(value):
        return json.dumps({"image": "good.jpg", "text": value}).encode()

    return {
        "empty text": (text(""), "empty_text"),
        "white space": (text(" \t\u00a0 "), "empty_text"),
        "no text": (text(None), "empty_text"),
        "a number for a text": (text(5), "bad_text"),
        "a list for a text": (text(["a"]), "bad_text"),
        "half a surrogate pair": (b'{"image": "good.jpg", "text": "a\\ud800"}', "bad_text"),
        "bytes that are not UTF-8": (b'{"image": "good.jpg", "text": "\xff\xfe"}', "bad_json"),
        "not JSON": (b"image good.jpg", "bad_json"),
        "cut JSON": (b'{"image": "good.jpg", "te', "bad_json"),
        "deeply nested": (b"[" * 200_000 + b"]" * 200_000, "bad_json"),
        "deeply nested objects": (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "bad_json"),
        "a number of 100,000 digits": (b'{"image": "good.jpg", "text": ' + b"9" * 100_000 + b"}", "bad_json"),
        "a list": (b"[1, 2]", "bad_json"),
        "a text of 5 million characters": (text("long " * 1_000_000), "too_long"),
        "no picture": (b'{"text": "a"}', "missing"),
        "a picture that is a number": (b'{"image": 5, "text": "a"}', "missing"),
        "good": (text("good"), WHOLE),
    }


def clean_corpus(folder: Path, count: int = 60) -> Path:
    """A .jsonl of pictures that can all be read."""
    folder.mkdir()
    (folder / "good.jpg").write_bytes(saved(noisy(side=640), "JPEG"))
    line = json.dumps({"image": "good.jpg", "text": "good " * 20}) + "\n"
    (folder / "a.jsonl").write_text(line * count)
    return folder / "a.jsonl"


def hostile_corpus(folder: Path) -> tuple[Path, list[str], list[str]]:
    """A .jsonl of all of the above; for each record what is tried, and what it is to be called."""
    folder.mkdir()
    (folder / "good.jpg").write_bytes(picture(0))
    lines, names, kinds = [], [], []
    for name, (data, kind) in picture_files(folder).items():
        (folder / name).write_bytes(data)
        lines.append(json.dumps({"image": name, "text": "a"}).encode())
        names.append(name)
        kinds.append(kind)
    for name, kind in place_files(folder).items():
        lines.append(json.dumps({"image": name, "text": "a"}).encode())
        names.append(name[:60])
        kinds.append(kind)
    for name, (line, kind) in line_files().items():
        lines.append(line)
        names.append(name)
        kinds.append(kind)
    (folder / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return folder / "a.jsonl", names, kinds


def read_every(path: Path) -> list[str]:
    """What each record of a .jsonl is called."""
    source, kinds = make("jsonl", paths=(str(path),)), []
    for index in range(len(source)):
        try:
            for segment in source.load(index, 0).segments:
                getattr(segment, "load", lambda: None)()
            kinds.append(WHOLE)
        except DataError as error:
            kinds.append(error.kind)
    return kinds


def stream_of(path: Path, **settings) -> BatchStream:
    """The stream of a .jsonl, in which any share of records may be bad."""
    entry = {"kind": "jsonl", "max_tokens": 64, "options": {"paths": [str(path)]}}
    config = {"sources": {"a": entry}, "length": 64, "images": 4, "image_size": 16, "workers": 0, "max_bad_share": 1.0}
    return BatchStream(build(DataConfig, config), ByteTokenizer(), **{"batch_size": SIDE, "seed": 0} | settings)


def hostile_tar(path: Path, outside: Path) -> str:
    """An archive with one good sample among members that would write, link or run something."""

    def special(kind, name, target=""):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        return info

    members = [
        ("0.jpg", picture(0)),
        ("0.txt", b"good"),
        ("../up.jpg", picture(0)),
        ("../up.txt", b"up"),
        (f"{outside}/absolute.jpg", picture(0)),
        (f"{outside}/absolute.txt", b"absolute"),
        ("1.jpg", special(tarfile.SYMTYPE, "1.jpg", "/etc/passwd")),
        ("1.txt", b"a link"),
        ("2.jpg", special(tarfile.LNKTYPE, "2.jpg", "/etc/passwd")),
        ("2.txt", b"a hard link"),
        ("3.jpg", special(tarfile.CHRTYPE, "3.jpg")),
        ("3.txt", b"a device"),
        ("4.jpg", special(tarfile.FIFOTYPE, "4.jpg")),
        ("4.txt", b"a pipe"),
        ("5.pth", pickle.dumps(Payload(outside / "unpickled"))),
        ("5.npy", b"\x93NUMPY\x01\0" + pickle.dumps(Payload(outside / "unpickled"))),
        ("5.pyd", b"MZ" + bytes(100)),
        ("5.txt", b"pickles"),
        ("6.jpg", b"\xff\xd8\xff"),
        ("6.txt", b"cut"),
        ("7.jpg", picture(0)),
        ("7.txt", b"\xff\xfe"),
    ]
    return write_tar(path, members)


def main(folder: str, which: str) -> None:
    """Streams a corpus over and over, as training does, and prints the peak of memory in KiB."""
    path = clean_corpus(Path(folder) / "c") if which == "clean" else hostile_corpus(Path(folder) / "h")[0]
    read_every(path)
    for _ in itertools.islice(stream_of(path), 20):
        pass
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main(*sys.argv[1:])
