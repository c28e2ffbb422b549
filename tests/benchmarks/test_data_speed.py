"""The benchmark of the data pipeline: what it compares is the same work."""

import io

import numpy as np
from PIL import Image

from benchmarks.data_speed import DECODERS, ROWS, Pipeline, decoding, photo, rates, write_files
from mmjax.data.sources.records import parse_example, scan_tfrecord


def test_all_decoders_make_about_the_same_picture():
    data = photo(0)
    assert Image.open(io.BytesIO(data)).size == (640, 480)
    made = {name: decode(data).astype(int) for name, decode in DECODERS.items()}
    assert {picture.shape for picture in made.values()} == {(224, 224, 3)}
    first = made["Pillow, bicubic"]
    assert max(np.abs(picture - first).mean() for picture in made.values()) < 6


def test_both_files_hold_the_pictures_and_the_pipeline_reads_them(tmp_path):
    pictures = [photo(0)] * 20
    write_files(tmp_path, pictures)
    path = tmp_path / "pictures.tfrecord"
    spans = scan_tfrecord(str(path))
    assert len(spans) == 20
    record = path.read_bytes()[spans[3]["offset"] :][: spans[3]["size"]]
    assert parse_example(record, "a record")["image"] == [pictures[0]]
    assert Pipeline(tmp_path).read(5) >= ROWS
    found = rates({"header": decoding(len, pictures)}, 20, 2)
    assert len(found["header"]) == 2
