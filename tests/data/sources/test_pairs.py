"""WebDataset shards, JSONL, CSV, Parquet and Arrow: pictures with a text, in the layouts that tools write."""

import csv
import json

import pyarrow
import pyarrow.parquet
import pytest

from mmjax.core.errors import ConfigError, DataError, InputError
from tests.data.sources.made import make, picture, read, saved_dataset, table, write_tar


def kind_of(source, index):
    with pytest.raises(DataError) as caught:
        read(source, index)
    return caught.value.kind


def shard(path, first, count):
    """As img2dataset writes it: key.jpg, key.json, key.txt."""
    files = []
    for number in range(first, first + count):
        caption = f"picture {number}"
        facts = {
            "caption": caption,
            "alt": f"alt {number}",
            "url": "http://x",
            "key": f"{number:09d}",
            "status": "success",
        }
        files += [
            (f"{number:09d}.jpg", picture(number)),
            (f"{number:09d}.json", json.dumps(facts).encode()),
            (f"{number:09d}.txt", caption.encode()),
        ]
    return write_tar(path, files)


def test_shards_of_img2dataset(tmp_path):
    shard(tmp_path / "00000.tar", 0, 3)
    shard(tmp_path / "00001.tar", 3, 2)
    source = make("webdataset", paths=(f"{tmp_path}/{{00000..00001}}.tar",))
    assert len(source) == 5
    assert [read(source, index) for index in (0, 4, 2)] == [
        "[red]<picture 0>¶",
        "[cyan]<picture 4>¶",
        "[blue]<picture 2>¶",
    ]
    assert source.load(3, 7).id == "data:7:3"
    alt = make("webdataset", paths=(f"{tmp_path}/00001.tar",), text="alt", prompt="see: ", end_of_chunk=False)
    assert read(alt, 1) == "[cyan]see: <alt 4>"
    assert (tmp_path / ".mmjax").is_dir()


def test_samples_that_lack_a_part_or_hold_nonsense(tmp_path):
    path = write_tar(
        tmp_path / "0.tar",
        [
            ("0.jpg", picture(0)),
            ("1.txt", b"no picture"),
            ("2.jpg", picture(2)),
            ("2.txt", b" \n"),
            ("3.jpg", picture(3)),
            ("3.txt", b"\xff\xfe"),
            ("4.png", picture(4, "PNG")[:60]),
            ("4.txt", b"cut"),
            ("5.jpg", b"<html>404</html>"),
            ("5.txt", b"a page"),
            ("6.jpg", picture(6, side=1)),
            ("6.txt", b"a pixel"),
            ("7.jpg", picture(7, "PNG")),
            ("7.txt", b"a png"),
        ],
    )
    source = make("webdataset", paths=(path,))
    kinds = ["empty_text", "missing", "empty_text", "bad_text", "truncated", "not_an_image", "too_small"]
    assert [kind_of(source, index) for index in range(7)] == kinds
    assert read(source, 7) == "[black]<a png>¶"
    with pytest.raises(DataError, match=r"record 5 of data in .*0.tar: a picture is not a picture"):
        read(source, 5)


def lines(path, records):
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return str(path)


def test_jsonl_of_pairs_and_pages(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(picture(number, "PNG"))
    page = [
        {"text": "first"},
        {"image": "0.png"},
        {"text": "second"},
        {"text": "third", "loss": False},
        {"image": "1.png"},
    ]
    path = lines(
        tmp_path / "a.jsonl",
        [
            {"image": "0.png", "text": "one"},
            {"image": ["1.png", "2.png"], "text": "two", "more": 1},
            {"segments": page},
            {"segments": [{"text": "alone"}]},
            {"image": "3.png", "text": "gone"},
            {"image": "../0.png", "text": "out"},
            {"text": "no picture"},
            {"segments": [{"image": "0.png", "text": "both"}]},
            {"segments": [{"image": "0.png"}]},
        ],
    )
    source = make("jsonl", paths=(path,))
    assert [read(source, index) for index in range(4)] == [
        "[red]<one>¶",
        "[lime][blue]<two>¶",
        "<first>[red]<second>third¶[lime]",
        "<alone>",
    ]
    kinds = ["missing", "hostile_path", "missing", "bad_record", "empty_text"]
    assert [kind_of(source, index) for index in range(4, 9)] == kinds
    asked = make(
        "jsonl",
        paths=(lines(tmp_path / "b.jsonl", [{"file": "2.png", "q": "what? ", "a": "a"}]),),
        image="file",
        text="a",
        prompt_column="q",
    )
    assert read(asked, 0) == "[blue]what? <a>¶"


def test_pictures_in_another_folder_or_in_archives(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(picture(1))
    write_tar(tmp_path / "0.tar", [("b.jpg", picture(2))])
    write_tar(tmp_path / "1.tar", [("x/a.jpg", picture(3))])
    records = [{"image": "a.jpg", "text": "a"}, {"image": "b.jpg", "text": "b"}, {"image": "x/a.jpg", "text": "c"}]
    path = lines(tmp_path / "a.jsonl", records)
    folder = make("jsonl", paths=(path,), images=str(tmp_path / "pictures"))
    assert read(folder, 0) == "[lime]<a>¶"
    assert kind_of(folder, 1) == "missing"
    archives = make("jsonl", paths=(path,), images=f"{tmp_path}/{{0..1}}.tar")
    assert [read(archives, 1), read(archives, 2)] == ["[blue]<b>¶", "[yellow]<c>¶"]
    assert kind_of(archives, 0) == "missing"
    with pytest.raises(InputError, match="there is no folder"):
        make("jsonl", paths=(path,), images=str(tmp_path / "none"))


def test_csv_with_quotes_and_line_breaks(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(picture(number, "PNG"))
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows(
            [
                ["id", "image", "text"],
                [1, "0.png", "plain"],
                [2, "1.png", 'a "quoted"\ntext, with all'],
                [3, "2.png", "é"],
            ]
        )
    source = make("csv", paths=(str(tmp_path / "a.csv"),))
    assert [read(source, index) for index in range(3)] == [
        "[red]<plain>¶",
        '[lime]<a "quoted"\ntext, with all>¶',
        "[blue]<é>¶",
    ]
    (tmp_path / "b.tsv").write_text("file\tcaption\n0.png\ttabs\n0.png\n")
    tabs = make("csv", paths=(str(tmp_path / "b.tsv"),), delimiter="\t", image="file", text="caption")
    assert read(tabs, 0) == "[red]<tabs>¶"
    assert kind_of(tabs, 1) == "bad_record"
    with pytest.raises(InputError, match=r"b.tsv has no column 'image'; it has file, caption"):
        make("csv", paths=(str(tmp_path / "b.tsv"),), delimiter="\t")
    with pytest.raises(ConfigError, match="one ASCII character"):
        make("csv", paths=("x",), delimiter="ab")


def test_parquet_by_row_groups(tmp_path):
    pyarrow.parquet.write_table(table(5), tmp_path / "train-00000-of-00002.parquet", row_group_size=2)
    pyarrow.parquet.write_table(table(3, 5), tmp_path / "train-00001-of-00002.parquet")
    source = make("parquet", paths=(f"{tmp_path}/train-*.parquet",))
    assert len(source) == 8
    assert [read(source, index) for index in (7, 0, 4, 5)] == [
        "[black]<row 7>¶",
        "[red]<row 0>¶",
        "[cyan]<row 4>¶",
        "[magenta]<row 5>¶",
    ]
    with pytest.raises(InputError, match="has no column 'caption'; it has image, text, n"):
        make("parquet", paths=(f"{tmp_path}/train-*.parquet",), text="caption")
    (tmp_path / "broken.parquet").write_bytes((tmp_path / "train-00001-of-00002.parquet").read_bytes()[:-20])
    with pytest.raises(InputError, match=r"broken.parquet is not a whole Parquet file"):
        make("parquet", paths=(f"{tmp_path}/broken.parquet",))


def test_parquet_with_other_columns(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(3, "PNG"))
    columns = {"file": ["a.png", None], "raw": [picture(1), picture(2)], "q": ["why?", "how?"], "a": ["so", None]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    paths = make("parquet", paths=(f"{tmp_path}/a.parquet",), image="file", text="a", prompt_column="q")
    assert read(paths, 0) == "[yellow]why?<so>¶"
    assert kind_of(paths, 1) == "missing"
    raw = make("parquet", paths=(f"{tmp_path}/a.parquet",), image="raw", text="a")
    assert read(raw, 0) == "[lime]<so>¶"
    assert kind_of(raw, 1) == "empty_text"


def test_folders_of_datasets(tmp_path):
    saved_dataset(tmp_path / "train", [table(3), table(4, 3)])
    source = make("arrow", paths=(str(tmp_path / "train"),))
    assert len(source) == 7
    assert [read(source, index) for index in (6, 2, 3)] == ["[white]<row 6>¶", "[blue]<row 2>¶", "[yellow]<row 3>¶"]
    one = make("arrow", paths=(str(tmp_path / "train" / "data-00001-of-00002.arrow"),))
    assert read(one, 0) == "[yellow]<row 3>¶"
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(InputError, match=r"holds the splits train, test: name the folder of one, such as .*/train"):
        make("arrow", paths=(str(tmp_path),))
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match="is not a folder of save_to_disk"):
        make("arrow", paths=(str(tmp_path / "x"),))
    broken = tmp_path / "train" / "data-00000-of-00002.arrow"
    broken.write_bytes(broken.read_bytes()[:700])
    with pytest.raises(InputError, match="is not a whole Arrow file"):
        make("arrow", paths=(str(tmp_path / "train"),))


def test_arrow_files_with_a_footer(tmp_path):
    with pyarrow.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pyarrow.ipc.new_file(file, table(3).schema) as writer:
        writer.write_table(table(3), max_chunksize=1)
    assert read(make("arrow", paths=(f"{tmp_path}/a.arrow",)), 2) == "[blue]<row 2>¶"


def test_the_error_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    pyarrow.parquet.write_table(table(1), tmp_path / "a.parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"pip install 'mmjax\[data\]'"):
        make("parquet", paths=(f"{tmp_path}/a.parquet",))


def test_prompts_and_texts_alone(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1, "PNG"))
    path = lines(tmp_path / "a.jsonl", [{"image": "a.png", "prefix": "caption en", "suffix": "a lime"}])
    options = {"paths": (path,), "text": "suffix", "prompt_column": "prefix", "end_of_chunk": False}
    assert read(make("jsonl", **options, separator="\n"), 0) == "[lime]caption en\n<a lime>"
    assert read(make("jsonl", **options, prompt="Q: ", separator=" A: "), 0) == "[lime]Q: caption en A: <a lime>"
    assert read(make("jsonl", paths=(path,), image="", text="suffix"), 0) == "<a lime>"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["alone"]}), tmp_path / "a.parquet")
    assert read(make("parquet", paths=(f"{tmp_path}/a.parquet",), image=""), 0) == "<alone>"
