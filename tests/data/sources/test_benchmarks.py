"""Benchmarks as training data, in the layouts of their official files."""

import json
import pathlib

import pytest

from mmjax.core.errors import ConfigError, DataError, InputError
from mmjax.data.sources import cursor
from mmjax.data.sources.listed import KeyedList, key_of_value
from tests.data.sources import made
from tests.data.sources.made import make, read, write_json


def all_of(source):
    return [read(source, index) for index in range(len(source))]


def kind_of(source, index):
    with pytest.raises(DataError) as caught:
        read(source, index)
    return caught.value.kind


def test_captions_of_coco(tmp_path):
    options = made.coco(tmp_path)
    colours = ["red", "lime", "blue"] * 2
    assert all_of(make("coco", **options)) == [f"[{colour}]<Caption {n}.>¶" for n, colour in enumerate(colours)]
    assert read(make("coco", **options, prompt="Output: "), 1) == "[lime]Output: <Caption 1.>¶"
    whole = json.loads(pathlib.Path(options["paths"][0]).read_text())
    whole["annotations"] += [{"image_id": 8, "caption": "x"}, {"image_id": 9, "caption": " "}, {"image_id": 10.5}]
    whole["images"][1]["file_name"] = "../x.jpg"
    source = make("coco", **options | {"paths": [write_json(tmp_path / "b.json", whole)]})
    assert [kind_of(source, index) for index in (6, 7, 8, 1)] == [
        "bad_record",
        "empty_text",
        "empty_text",
        "hostile_path",
    ]


def test_splits_of_karpathy(tmp_path):
    options = made.karpathy(tmp_path)
    both = ["[red]<Sentence 0a.>¶", "[red]<Sentence 0b.>¶"]
    rest, train = ([f"[{c}]<Sentence {n}{letter}.>¶" for letter in "ab"] for n, c in ((2, "blue"), (3, "yellow")))
    assert all_of(make("karpathy", **options)) == both + rest + train  # in a folder, or not
    assert all_of(make("karpathy", **options, splits=("train",))) == both + train
    assert all_of(make("karpathy", **options, splits=("test",))) == ["[lime]<Sentence 1a.>¶", "[lime]<Sentence 1b.>¶"]
    damaged = {"images": [1, {"split": "train"}, {"split": "train", "sentences": [{"raw": "x"}]}]}
    source = make("karpathy", **options | {"paths": [write_json(tmp_path / "b.json", damaged)]})
    assert [kind_of(source, 0), kind_of(source, 1)] == ["bad_record", "missing"]


def test_lines_of_flickr30k(tmp_path):
    options = made.flickr30k(tmp_path)
    colours = ["red"] * 3 + ["lime"] * 3
    assert all_of(make("flickr30k", **options)) == [f"[{c}]<Caption {n} .>¶" for n, c in enumerate(colours)]
    (tmp_path / "b.token").write_bytes(b"10.jpg#x\ta\n10.jpg#0 a\n10.jpg#0\t \n10.jpg#0\ta\n\xff.jpg#0\ta")
    source = make("flickr30k", **options | {"paths": [str(tmp_path / "b.token")]})
    kinds = ["bad_record", "bad_record", "empty_text", "missing", "bad_text"]
    assert [kind_of(source, index) for index in range(5)] == kinds


def test_questions_and_their_most_frequent_answers(tmp_path):
    options = made.vqa(tmp_path)
    assert all_of(make("vqa", **options)) == [
        f"[red]Question: What is {n}? Short answer:< net {n}>¶" for n in range(made.COUNT)
    ]
    templates = {"question": "answer en {question}\n", "answer": "{answer}", "end_of_chunk": False}
    assert read(make("vqa", **options, **templates), 3) == "[red]answer en What is 3?\n<net 3>"
    flat = make("vqa", **options, picture="{image_id}.jpg")
    assert kind_of(flat, 0) == "missing"


def test_damaged_questions(tmp_path):
    options = made.vqa(tmp_path)
    asked = [
        {"image_id": 25, "question": "{answer}?", "question_id": 1},
        {"image_id": "x", "question": "?", "question_id": 1},
        {"image_id": 25, "question": "?", "question_id": 2},
        {"image_id": 25, "question": "?", "question_id": 3},
        {"image_id": 25, "question": "?", "question_id": "1"},
        {"image_id": 25, "question": None, "question_id": 1},
    ]
    answered = [
        {"question_id": 1, "answers": [{"answer": "b"}, {"answer": "a "}, {"answer": "a"}, {"answer": "b"}, {}, None]},
        {"question_id": 2, "answers": [{"answer": ""}]},
        {"question_id": 3},
    ]
    paths = {
        "paths": [write_json(tmp_path / "train2014.json", {"questions": asked})],
        "annotations": [write_json(tmp_path / "a.json", {"annotations": answered})],
    }
    source = make("vqa", **options | paths)
    assert read(source, 0) == "[red]Question: {answer}? Short answer:< b>¶"  # of a tie the first
    kinds = ["bad_record", "empty_text", "bad_record", "bad_record", "empty_text"]
    assert [kind_of(source, index) for index in range(1, 6)] == kinds
    with pytest.raises(InputError, match=r"a.json has no train2014, val2014"):
        make("vqa", **options | {"paths": paths["annotations"]})
    with pytest.raises(InputError, match=r"a.json is not a JSON object with a list 'questions': .* no such member"):
        make("vqa", **options | {"paths": paths["annotations"], "picture": "{image_id}.jpg"})
    for wrong in ({"annotations": ()}, {"picture": "{id}.jpg"}, {"question": "What?"}, {"answer": ""}):
        with pytest.raises(ConfigError):
            make("vqa", **options | wrong)


def test_questions_about_text_in_pictures(tmp_path):
    options = made.textvqa(tmp_path)
    assert all_of(make("textvqa", **options)) == [
        f"[{('red', 'lime')[n % 2]}]Question: What brand is {n}? Short answer:< Toshiba {n}>¶"
        for n in range(made.COUNT)
    ]
    words = {"data": [{"image_id": "0054c91397f2fe00", "ocr_tokens": ["Tosh", "iba", "{question}"], "ocr_info": []}]}
    ocr = {"ocr": [write_json(tmp_path / "ocr.json", words)], "question": "{ocr}. {question}"}
    source = make("textvqa", **options, **ocr)
    assert read(source, 0) == "[red]Tosh, iba, {question}. What brand is 0?< Toshiba 0>¶"
    assert read(make("textvqa", **options, **ocr, max_ocr=1), 2) == "[red]Tosh. What brand is 2?< Toshiba 2>¶"
    assert kind_of(source, 1) == "bad_record"
    with pytest.raises(ConfigError, match="set both or neither"):
        make("textvqa", **options, ocr=ocr["ocr"])


def test_sentences_about_two_pictures(tmp_path):
    options = made.nlvr2(tmp_path)
    source = make("nlvr2", **options)
    assert read(source, 0) == "[red][lime]There are 0 dogs. True or false?< True>¶"
    assert read(source, 5) == "[blue][yellow]There are 5 dogs. True or false?< False>¶"  # beside the folders
    apart = make("nlvr2", **options, after=("Left. ", "Right. "))
    assert read(apart, 0) == "[red]Left. [lime]Right. There are 0 dogs. True or false?< True>¶"
    assert read(make("nlvr2", **options, words=("yes", "no")), 1) == (
        "[blue][yellow]There are 1 dogs. True or false?< no>¶"
    )
    records = [{"sentence": "x", "label": "?", "identifier": "a-0"}, {"sentence": "x", "label": True, "identifier": 1}]
    path = tmp_path / "b.json"
    path.write_text("\n".join(map(json.dumps, records)))
    assert [kind_of(make("nlvr2", **options | {"paths": [str(path)]}), n) for n in range(2)] == ["bad_record"] * 2


@pytest.mark.parametrize("window", [1, 7, 1 << 20])
def test_large_lists_are_read_a_window_at_a_time(tmp_path, monkeypatch, window):
    monkeypatch.setattr(cursor, "_WINDOW", window)
    whole = {
        "n": 12345,
        "skipped": [1, [2, "]"], {}],
        "t": 'é " ]',
        "wanted": [{"id": "ü", "n": 10}, 777, "x", []],
        "z": 1,
    }
    path = tmp_path / "a.json"
    for text in (json.dumps(whole), json.dumps(whole, indent=1, ensure_ascii=False)):
        path.write_text("\ufeff" + text, encoding="utf-8")
        data = path.read_bytes()
        found = list(cursor.list_items(str(path), "wanted"))
        assert [json.loads(data[offset : offset + size]) for offset, size, _ in found] == whole["wanted"]
    for text, message in (
        ('{"wanted": 5}', "'\\[' is expected"),
        ('{"wanted": [1 2]}', "',' is expected"),
        ('{"other": [1]}', "no such member"),
        ('{"wanted": [{}, tru', "after 1 items"),
        ("[]", "'{' is expected"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            list(cursor.list_items(str(path), "wanted"))


def test_items_are_found_by_the_value_of_a_field(tmp_path, monkeypatch):
    items = [{"id": value, "n": n} for n, value in enumerate([3, "3", "é", None, 3, 2.5])]
    paths = [write_json(tmp_path / f"{n}.json", {"data": items[3 * n : 3 * n + 3]}) for n in range(2)]
    listed = KeyedList(paths, "data", "id", cache=tmp_path)
    assert [listed.find(item["id"], "x")["n"] for item in items] == [0, 1, 2, 3, 0, 5]
    with pytest.raises(DataError, match=r"x: data of .*0.json has no id 4"):
        listed.find(4, "x")
    monkeypatch.setattr("mmjax.data.sources.listed.key_of_value", lambda value: 1)
    same = KeyedList(paths, "data", "id", cache=tmp_path / "same")
    assert [same.find(item["id"], "x")["n"] for item in items] == [0, 1, 2, 3, 0, 5]  # keys that collide
    assert key_of_value({"a": 1, "b": 2}) == key_of_value({"b": 2, "a": 1})
    with pytest.raises(InputError, match="not an object"):
        KeyedList([write_json(tmp_path / "c.json", {"data": [1]})], "data", "id", cache=tmp_path)
