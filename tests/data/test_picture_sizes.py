"""Sizes of pictures by the heads of their files: right, kept, resumed, and without decoding."""

import io
import json

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from mmjax.core.errors import DataError
from mmjax.data import picture_sizes
from mmjax.data.images import picture_size
from mmjax.data.picture_sizes import kept_sizes, measure_sizes
from mmjax.data.statistics import sides_of
from tests.data.sources.made import WRITERS, make

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def file_of(kind, width=30, height=20, turn=None):
    buffer, image = io.BytesIO(), Image.new("RGB", (width, height), "red")
    exif = Image.Exif()
    if turn:
        exif[0x0112] = turn
    image.save(buffer, kind, **({"exif": exif} if turn else {}))
    return buffer.getvalue()


@pytest.fixture
def no_pixels(monkeypatch):
    """Fails where pixels are decoded."""

    def refuse(*arguments, **settings):
        raise AssertionError("pixels are decoded")

    monkeypatch.setattr(simplejpeg, "decode_jpeg", refuse)
    monkeypatch.setattr(Image.core, "jpeg_decoder", refuse)
    monkeypatch.setattr(Image.core, "zip_decoder", refuse)


@pytest.mark.parametrize("kind", FORMATS)
def test_heads_of_all_formats(no_pixels, tmp_path, kind):
    data = file_of(kind)
    (tmp_path / "a").write_bytes(data)
    assert picture_size(data) == picture_size(tmp_path / "a") == (20, 30)
    assert picture_size(data[:-4] if kind in ("JPEG", "PNG") else data) == (20, 30)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pictures_are_upright(kind):
    for turn in range(1, 9):
        assert picture_size(file_of(kind, turn=turn)) == ((30, 20) if turn >= 5 else (20, 30))


def test_what_is_no_picture():
    for data, kind in ((b"text", "not_an_image"), (b"", "not_an_image")):
        with pytest.raises(DataError) as caught:
            picture_size(data)
        assert caught.value.kind == kind
    with pytest.raises(DataError):
        picture_size("/nowhere.jpg")


def source_of(folder, count=10):
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(file_of("JPEG", 30 + number, 20))
    (folder / "3.jpg").write_bytes(b"no picture")
    records = [{"image": [f"{n}.jpg", f"{n}.jpg"][: 1 + n % 2], "text": "a"} for n in range(count)]
    records[4] = {"image": "gone.jpg", "text": "a"}
    records[5] = {"image": "5.jpg", "text": ""}
    (folder / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return make("jsonl", paths=[f"{folder}/a.jsonl"])


ROWS = [(0, 20, 30), (1, 20, 31), (1, 20, 31), (2, 20, 32), (3, 0, 0), (3, 0, 0), (4, 0, 0), (6, 20, 36)]


def test_sizes_are_kept(tmp_path, no_pixels, monkeypatch):
    source = source_of(tmp_path)
    assert kept_sizes(source) is None
    table = measure_sizes(source)
    assert list(map(tuple, table[:8].tolist())) == ROWS
    monkeypatch.setattr(picture_sizes, "sizes_of", None)
    np.testing.assert_array_equal(measure_sizes(source), table)
    told = sides_of(kept_sizes(source))
    assert (told["measured"], told["unreadable"]) == (10, 3)
    assert told["shorter_side"] == [20] * 7
    assert (told["longer_side"][0], told["longer_side"][-1]) == (30, 39)
    assert sides_of(None) is None
    nothing = sides_of(np.zeros((0, 3), np.int32))
    assert (nothing["measured"], nothing["shorter_side"], nothing["longer_side"]) == (0, [], [])


def test_what_is_interrupted_goes_on(tmp_path, monkeypatch):
    source = source_of(tmp_path)
    monkeypatch.setattr(picture_sizes, "_CHUNK", 3)
    whole, read = picture_sizes.sizes_of, []

    def failing(source, start, stop):
        read.append(start)
        if len(read) == 3:
            raise KeyboardInterrupt
        return whole(source, start, stop)

    monkeypatch.setattr(picture_sizes, "sizes_of", failing)
    monkeypatch.setattr(
        picture_sizes, "run_shared", lambda work, tasks, **_: ((n, work(*t)) for n, t in enumerate(tasks))
    )
    with pytest.raises(KeyboardInterrupt):
        measure_sizes(source)
    (part,) = source.cache.glob("sizes-*.parts/000000000003.npy")
    part.write_bytes(b"damaged")
    assert list(map(tuple, measure_sizes(source)[:8].tolist())) == ROWS
    assert read == [0, 3, 6, 3, 6, 9]
    assert not list(source.cache.glob("sizes-*.parts"))


def test_other_files_are_measured_anew_and_videos_have_none(tmp_path):
    source = source_of(tmp_path)
    measure_sizes(source)
    with open(tmp_path / "a.jsonl", "a") as file:
        file.write('{"image": "0.jpg", "text": "b"}\n')
    again = make("jsonl", paths=[f"{tmp_path}/a.jsonl"])
    assert kept_sizes(again) is None
    assert measure_sizes(again)[-1].tolist() == [10, 20, 30]
    (tmp_path / "v").mkdir()
    assert len(measure_sizes(make("video", **WRITERS["video"](tmp_path / "v")))) == 0
