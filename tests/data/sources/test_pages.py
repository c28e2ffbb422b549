"""MMC4 by OpenFlamingo's rules, worked by hand, and OBELICS."""

import base64
import hashlib
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from mmjax.core.errors import DataError
from mmjax.data.keyed import Dice, key_of
from mmjax.data.lengths import Limits, measure
from mmjax.data.sources.pages import assign
from mmjax.text.tokenizer import ByteTokenizer
from tests.data.sources.made import make, picture, read, write_tar


def kind_of(source, index):
    with pytest.raises(DataError) as caught:
        read(source, index)
    return caught.value.kind


def test_pictures_are_assigned_one_to_one():
    """Both pictures fit sentence 0 best; together they are worth most crossed: 0.30 + 0.38 against 0.40 + 0.25."""
    similarities = np.array([[0.40, 0.30, 0.10], [0.38, 0.25, 0.00]])
    assert assign(similarities, min_similarity=0.24, max_images=6) == [(1, 0), (0, 1)]
    assert assign(similarities, min_similarity=0.31, max_images=6) == [(1, 0)]
    assert assign(similarities, min_similarity=0.30, max_images=6) == [(1, 0), (0, 1)]
    assert assign(similarities, min_similarity=0.24, max_images=1) == [(0, 1)]
    assert assign(similarities, min_similarity=0.5, max_images=6) == []
    assert assign(np.zeros((0, 3)), min_similarity=0.24, max_images=6) == []
    more = np.array([[0.3], [0.5], [0.4]])  # more pictures than sentences
    assert assign(more, min_similarity=0.24, max_images=6) == [(1, 0)]


def page(sentences, similarities, **more):
    infos = [
        {
            "image_name": f"{number}.jpg",
            "raw_url": f"http://example.org/{number}.jpg",
            "matched_text_index": int(np.argmax(row)),
            "matched_sim": float(np.max(row)),
        }
        for number, row in enumerate(similarities)
    ]
    return {"text_list": sentences, "image_info": infos, "similarity_matrix": similarities, "url": "http://x"} | more


PAGES = [
    page(["A.", "B.", "C."], [[0.40, 0.30, 0.10], [0.38, 0.25, 0.00]]),
    page(["A.", "B."], [[0.1, 0.3]]),
    page(["A."], [[0.1]]),
    page(["A.", "B.", "C."], [[0.3, 0, 0], [0, 0.3, 0], [0, 0, 0.3], [0.9, 0.9, 0.9]]),  # 3.jpg is not there
    {key: value for key, value in page(["A.", "B."], [[0.1, 0.3], [0.25, 0.1]]).items() if key != "similarity_matrix"},
    page(["A."], [[0.3, 0.1]]),
    page(["A."], [[float("nan")]]),
    {"text_list": ["A."]},
    page(["A."], []),
]


@pytest.fixture
def pages(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        (tmp_path / "pictures" / f"{number}.jpg").write_bytes(picture(number))
    path = tmp_path / "docs_no_face_shard_0_v2.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in PAGES))
    return path


def test_pages_of_mmc4(pages, tmp_path):
    source = make("mmc4", min_bytes=0, paths=(str(pages),), images=str(tmp_path / "pictures"))
    assert len(source) == len(PAGES)
    assert read(source, 0) == "[lime]<A.>¶[red]<B. C.>¶"
    assert read(source, 1) == "<A.>[red]<B.>¶"
    assert kind_of(source, 2) == "filtered"
    assert read(source, 3) == "[red]<A.>¶[lime]<B.>¶[blue]<C.>¶"
    assert read(source, 4) == "[lime]<A.>¶[red]<B.>¶"
    assert [kind_of(source, index) for index in range(5, 9)] == ["bad_record", "bad_record", "bad_record", "filtered"]


def test_limits_of_mmc4(pages, tmp_path):
    pictures = str(tmp_path / "pictures")
    assert (
        read(make("mmc4", min_bytes=0, paths=(str(pages),), images=pictures, max_images=2), 3)
        == "[red]<A.>¶[lime]<B. C.>¶"
    )
    assert kind_of(make("mmc4", min_bytes=0, paths=(str(pages),), images=pictures, min_images=2), 1) == "filtered"
    assert read(make("mmc4", min_bytes=0, paths=(str(pages),), images=pictures, min_similarity=0.05), 2) == "[red]<A.>¶"


def test_pictures_of_mmc4_in_archives_or_in_the_record(pages, tmp_path):
    write_tar(tmp_path / "0.tar", [("0.jpg", picture(5)), ("1.jpg", picture(6))])
    source = make("mmc4", min_bytes=0, paths=(str(pages),), images=f"{tmp_path}/0.tar")
    assert read(source, 0) == "[white]<A.>¶[magenta]<B. C.>¶"
    record = page(["A."], [[0.9]])
    record["image_info"][0]["image_base64"] = base64.b64encode(picture(4)).decode()
    (tmp_path / "b.jsonl").write_text(json.dumps(record) + "\n")
    assert read(make("mmc4", min_bytes=0, paths=(f"{tmp_path}/b.jsonl",)), 0) == "[cyan]<A.>¶"


def test_pictures_that_arrive_later_are_measured_anew(pages, tmp_path):
    def source():
        return make("mmc4", min_bytes=0, paths=(str(pages),), images=str(tmp_path / "pictures"))

    before = source().fingerprint
    assert source().fingerprint == before
    (tmp_path / "pictures" / "3.jpg").write_bytes(picture(3))
    assert source().fingerprint != before


def sized(number, size):
    """A picture's file of exactly so many bytes."""
    return picture(number) + bytes(size - len(picture(number)))


def test_small_pictures_are_left_out_before_the_assignment(tmp_path):
    """OpenFlamingo: `if len(rawbytes) // 1000 <= 10: continue`. By hand: of 10,999 bytes (10 kB) the first is left out,
    of 11,000 (11 kB) the second stays. With both, the first would take A and the second B; alone it takes A.
    """
    record = page(["A.", "B."], [[0.9, 0.3], [0.8, 0.5]])
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    (tmp_path / "0.jpg").write_bytes(sized(0, 10_999))
    (tmp_path / "1.jpg").write_bytes(sized(1, 11_000))
    path = f"{tmp_path}/a.jsonl"
    assert read(make("mmc4", paths=(path,)), 0) == "[lime]<A. B.>¶"
    assert read(make("mmc4", paths=(path,), min_bytes=0), 0) == "[red]<A.>¶[lime]<B.>¶"
    write_tar(tmp_path / "0.tar", [(f"{number}.jpg", (tmp_path / f"{number}.jpg").read_bytes()) for number in range(2)])
    assert read(make("mmc4", paths=(path,), images=f"{tmp_path}/0.tar"), 0) == "[lime]<A. B.>¶"
    for number, size in ((0, 10_999), (1, 11_000)):
        record["image_info"][number]["image_base64"] = base64.b64encode(sized(number, size)).decode()
    (tmp_path / "b.jsonl").write_text(json.dumps(record) + "\n")
    assert read(make("mmc4", paths=(f"{tmp_path}/b.jsonl",)), 0) == "[lime]<A. B.>¶"


def test_a_lone_picture_at_the_cut_is_left_out(tmp_path):
    """By hand, a letter a token: `<s> a b c <image> d </s>`. Cut at 6 the picture is last before the end.

    OpenFlamingo leaves such an example out, as none of its tokens has a loss; of two pictures the second may.
    """
    (tmp_path / "0.jpg").write_bytes(picture(0))
    one = [{"text": "abc"}, {"image": "0.jpg"}, {"text": "d"}]
    pages = [one, [{"image": "0.jpg"}, *one[:1], *one[1:]]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"segments": page}) + "\n" for page in pages))
    source = make("jsonl", paths=(f"{tmp_path}/a.jsonl",), end_of_chunk=False)

    def draws(key):
        return [Dice(key_of(key, index, "single image")).uniform() for index in range(2)]

    def lengths(most, share):
        return measure(source, ByteTokenizer(), limits=Limits(max_tokens=most, keep_single_image=share, key=key))

    key = next(key for key in range(99) if max(draws(key)) < 0.5)
    assert lengths(6, 0.5).left_out == {"filtered": 1}
    assert lengths(6, 0.5).lengths.tokens.tolist()[1] == 6  # <s> <image> a b c </s>
    assert lengths(6, 1.0).lengths.tokens.tolist() == [6, 6]
    assert lengths(7, 0.5).lengths.tokens.tolist() == [7, 7]
    assert lengths(7, 0.5).lengths.images.tolist() == [1, 2]  # of two pictures the second is last


def obelics(path, rows, image_type=None):
    images = pyarrow.array([images for images, _ in rows], pyarrow.list_(image_type or pyarrow.string()))
    texts = pyarrow.array([texts for _, texts in rows], pyarrow.list_(pyarrow.string()))
    pyarrow.parquet.write_table(pyarrow.table({"images": images, "metadata": ["[]"] * len(rows), "texts": texts}), path)
    return str(path)


def test_pages_of_obelics(tmp_path):
    address = "http://example.org/a.jpg"
    (tmp_path / f"{hashlib.sha256(address.encode()).hexdigest()}.jpg").write_bytes(picture(0))
    (tmp_path / "b.png").write_bytes(picture(1, "PNG"))
    rows = [
        ([None, address, None, None, address], ["Title", None, "one", "two", None]),
        (["http://example.org/gone.jpg", None], [None, "alone"]),
        ([address], [None]),
    ]
    source = make("obelics", paths=(obelics(tmp_path / "a.parquet", rows),), names="url_sha256")
    assert read(source, 0) == "<Title>[red]<one\n\ntwo>¶[red]"
    assert kind_of(source, 1) == "filtered"
    assert kind_of(source, 2) == "empty_text"
    rows = [(["b.png", None, "b.png", "c.png", "../b.png", None], [None, "one", None, None, None, "two"])]
    source = make("obelics", paths=(obelics(tmp_path / "b.parquet", rows),))
    assert read(source, 0) == "[lime]<one>¶[lime]<two>¶"
    assert read(make("obelics", paths=(f"{tmp_path}/b.parquet",), max_images=1), 0) == "[lime]<one\n\ntwo>¶"


def test_obelics_with_pictures_inside(tmp_path):
    struct = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    rows = [([{"bytes": picture(2), "path": None}, None], [None, "in the file"])]
    source = make("obelics", paths=(obelics(tmp_path / "a.parquet", rows, struct),))
    assert read(source, 0) == "[blue]<in the file>¶"
