"""Records whose fields were replaced by anything at all: an example, or a DataError, and nothing else."""

import copy
import json
import pathlib

import numpy as np
import pytest

from mmjax.core.errors import DataError
from mmjax.core.example import Media
from mmjax.data.assemble import BatchShape, read_example
from mmjax.text.tokenizer import ByteTokenizer
from tests.data.sources.made import SIZE, WRITERS, make, picture, write_tar
from tests.data.sources.test_chat import CHATS, LLAVA
from tests.data.sources.test_pages import PAGES

PAIRS = [
    {"image": "0.jpg", "text": "one"},
    {"image": ["0.jpg", "1.jpg"], "text": "two"},
    {"segments": [{"text": "a"}, {"image": "0.jpg"}, {"text": "b", "loss": False}]},
]
RECORDS = {"jsonl": PAIRS, "mmc4": PAGES, "llava": LLAVA, "chat": CHATS}
ODD = (
    *(None, True, 0, -1, 1e300, float("nan"), "", "x", "\ud800", "\udc80.jpg", "a\0b", "../0.jpg", "/dev/zero"),
    *("x" * 300, "http://x/y.jpg", "data:image/png;base64,AAAA", "<image>", "<image><image>"),
    *([], {}, [None], [[]], {"a": 1}, {"bytes": 1, "path": 2}, [{"type": "image"}], [{"type": "text", "text": 1}]),
)


def places(value, path=()):
    """The path of every value within."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def replaced(record, path, value):
    if not path:
        return value
    record = copy.deepcopy(record)
    node = record
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return record


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("kind", RECORDS)
def test_any_field_may_hold_anything(kind, archive, tmp_path):
    random = np.random.default_rng(list(RECORDS).index(kind))
    damaged = [
        replaced(record, path, ODD[random.integers(len(ODD))])
        for record in RECORDS[kind]
        for path in places(record)
        for _ in range(4)
    ]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in damaged))
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(picture(number))
    options = (
        {"images": write_tar(tmp_path / "0.tar", [("0.jpg", picture(0)), ("1.jpg", picture(1))])} if archive else {}
    )
    if kind == "mmc4":
        options["min_bytes"] = 0
    source = make(kind, paths=(str(tmp_path / "a.jsonl"),), **options)
    assert len(source) == len(damaged)
    shape, kinds = BatchShape(1, 10_000, 10, 1, SIZE), set()
    for index in range(len(source)):
        try:
            example = source.load(index, 0)
            assert read_example(example, ByteTokenizer(), shape, next_image=False).text.images == sum(
                isinstance(segment, Media) for segment in example.segments
            )
            kinds.add("whole")
        except DataError as error:
            kinds.add(error.kind)
    assert {"whole", "bad_json", "bad_record"} <= kinds or kind == "jsonl"
    assert len(kinds) >= 5


@pytest.mark.parametrize("kind", ["coco", "karpathy", "vqa", "textvqa", "nlvr2", "video"])
def test_any_field_of_a_benchmark_may_hold_anything(kind, tmp_path):
    random = np.random.default_rng(7)
    options = WRITERS[kind](tmp_path)

    def damaged(record):
        ways = [path for path in places(record) if path]
        return [replaced(record, path, ODD[random.integers(len(ODD))]) for path in ways for _ in range(4)]

    for path in map(pathlib.Path, [*options["paths"], *options.get("annotations", ())]):
        if kind in ("nlvr2", "video"):
            records = [record for line in path.read_text().splitlines() for record in damaged(json.loads(line))]
            path.write_text("\n".join(map(json.dumps, records)))
            continue
        whole = json.loads(path.read_text())
        for name in sorted(whole.keys() & {"images", "annotations", "questions", "data"}):
            whole[name] += [record for item in whole[name] for record in damaged(item)]
        path.write_text(json.dumps(whole))
    source, kinds = make(kind, **options), set()
    shape = BatchShape(1, 10_000, 10, 1, SIZE)
    for index in range(len(source)):
        try:
            read_example(source.load(index, 0), ByteTokenizer(), shape, next_image=False)
            kinds.add("whole")
        except DataError as error:
            kinds.add(error.kind)
    assert "whole" in kinds
    assert len(kinds) >= 3
