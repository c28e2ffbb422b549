"""Names of files, paths that records name, offsets of records, and tar archives, whole, broken and hostile."""

import concurrent.futures
import io
import json
import os
import tarfile
import time

import numpy as np
import pytest

from mmjax.core.errors import DataError, InputError
from mmjax.data.sources import lines, tars
from mmjax.data.sources.files import expand, find_files, inside, read_at
from mmjax.data.sources.index import FileIndex
from mmjax.data.sources.tars import TarFolder, scan_members, scan_samples
from tests.data.sources.made import make, picture, write_tar


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{00008..00011}.tar", ["00008.tar", "00009.tar", "00010.tar", "00011.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,b}/{0..1}.x", ["a/0.x", "a/1.x", "b/0.x", "b/1.x"]),
        ("x{train,val}y", ["xtrainy", "xvaly"]),
        ("{01..12..5}", ["01..12..5"]),
    ],
)
def test_braces_are_expanded_as_a_shell_does(pattern, names):
    assert list(expand(pattern)) == names


def test_files_that_are_not_there_are_named(tmp_path):
    for name in "ba":
        (tmp_path / f"{name}.tar").write_bytes(b"")
    assert find_files([f"{tmp_path}/*.tar"]) == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]
    with pytest.raises(InputError, match=r"no file .*/c.tar \(1 of 3 that are named are missing\)"):
        find_files([f"{tmp_path}/{{b,a,c}}.tar"])
    with pytest.raises(InputError, match=r"no file that matches .*\.zip"):
        find_files([f"{tmp_path}/*.zip"])
    with pytest.raises(InputError, match="mount the bucket"):
        find_files(["gs://bucket/a.tar"])
    with pytest.raises(InputError, match="more than"):
        find_files(["{0..99999999}.tar"])


def kind_of(function, *arguments):
    with pytest.raises(DataError) as caught:
        function(*arguments)
    return caught.value.kind


def test_records_cannot_lead_out_of_their_folder(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a.png").write_bytes(b"a")
    (tmp_path / "out.png").write_bytes(b"b")
    (tmp_path / "inside.png").write_bytes(b"b")
    os.mkfifo(tmp_path / "in" / "pipe")
    root = str(tmp_path / "in")
    assert inside(root, "a.png") == inside(root, "deep/../a.png") == inside(root, f"{root}/a.png") == f"{root}/a.png"
    for name in ("../out.png", "deep/../../out.png", "/etc/passwd", f"{tmp_path}/out.png", "a\0b", "pipe", "deep"):
        assert kind_of(inside, root, name) == "hostile_path"
    assert kind_of(inside, root, "b.png") == "missing"
    assert kind_of(inside, root, "http://example.org/a.png") == "address"


def test_parts_of_files_are_read_whole_or_named(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    assert read_at(str(path), 2, 3) == b"234"
    assert kind_of(read_at, str(path), 8, 3) == "truncated"
    assert kind_of(read_at, str(tmp_path / "b"), 0, 1) == "missing"
    for number in range(100):  # more than are kept open
        (tmp_path / str(number)).write_bytes(b"%d" % number)
        assert read_at(str(tmp_path / str(number)), 0, 1) == b"%d" % (number // 10 or number)


def spans_of(scan, path):
    return [lines.read_span(str(path), span) for span in scan(str(path))]


@pytest.mark.parametrize("part", [7, 1 << 20])
def test_lines_and_rows_are_found(tmp_path, monkeypatch, part):
    monkeypatch.setattr(lines, "_PART", part)
    path = tmp_path / "a"
    path.write_bytes(b'\xef\xbb\xbf{}\n\n  \n{"a": 1}\r\n[]')
    assert [span.strip() for span in spans_of(lines.scan_lines, path)] == [b"{}", b'{"a": 1}', b"[]"]
    path.write_bytes(b'a,b\n1,"x\ny"\n"q""\n""",2\n')
    assert spans_of(lines.scan_csv, path) == [b'1,"x\ny"', b'"q""\n""",2']
    path.write_bytes(b"")
    assert spans_of(lines.scan_lines, path) == []


def test_items_of_a_json_list_are_found(tmp_path):
    items = [{"text": 'a ] , [ " \u00e9 \U0001f600'}, {"list": [1, [2]]}, {}]
    path = tmp_path / "a.json"
    for text in (json.dumps(items), json.dumps(items, indent=2, ensure_ascii=False), "\n".join(map(json.dumps, items))):
        path.write_text(text, encoding="utf-8")
        assert [json.loads(item) for item in spans_of(lines.scan_json, path)] == items
    path.write_text("[1]\n[2]\n")
    with pytest.raises(InputError, match="more follows the list"):
        lines.scan_json(str(path))
    (tmp_path / "b.jsonl").write_text("[1]\n[2]\n")
    assert spans_of(lines.scan_json, tmp_path / "b.jsonl") == [b"[1]", b"[2]"]
    path.write_text(" [ ]\n")
    assert spans_of(lines.scan_json, path) == []
    path.write_text(json.dumps(items)[:-20])
    with pytest.raises(InputError, match=r"a.json is not a JSON list: at byte \d+, after 1 items"):
        lines.scan_json(str(path))


def test_what_is_not_an_object_is_bad_json():
    assert lines.parse_json(b'{"a": 1}', "x") == {"a": 1}
    for text in (b"{", b"[]", b"1", b"", b"\xff", b'{"a": ' * 100_000):
        assert kind_of(lines.parse_json, text, "x") == "bad_json"


def test_huge_records_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_RECORD", 10)
    path = tmp_path / "a"
    path.write_bytes(b"x" * 11)
    assert kind_of(lines.read_span, str(path), lines.scan_lines(str(path))[0]) == "too_long"


def test_an_index_is_made_once_and_again_when_a_file_changes(tmp_path):
    paths = []
    for number in range(3):
        (tmp_path / f"{number}.jsonl").write_text("{}\n" * (number + 1))
        paths.append(str(tmp_path / f"{number}.jsonl"))
    scanned = []

    def scan(path):
        scanned.append(os.path.basename(path))
        return lines.scan_lines(path)

    def index():
        scanned.clear()
        return FileIndex(paths, scan, cache=tmp_path / "cache", version="1")

    first = index()
    assert scanned == ["0.jsonl", "1.jsonl", "2.jsonl"]
    assert len(first) == 6
    assert [(os.path.basename(first[n][0]), int(first[n][1]["offset"])) for n in (0, 2, 5)] == [
        ("0.jsonl", 0),
        ("1.jsonl", 3),
        ("2.jsonl", 6),
    ]
    with pytest.raises(IndexError):
        first[6]
    assert index().key == first.key
    assert scanned == []
    (tmp_path / "1.jsonl").write_text("{}\n" * 9)
    changed = index()
    assert scanned == ["1.jsonl"]
    assert (len(changed), changed.key == first.key) == (13, False)
    for kept in (tmp_path / "cache").glob("*.npy"):  # damaged: made anew
        kept.write_bytes(kept.read_bytes()[:50])
    assert [int(span["offset"]) for _, span in (index()[n] for n in range(10))] == [0, *range(0, 27, 3)]


def test_many_files_are_indexed_by_several_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    paths = []
    for number in range(9):
        paths.append(str(tmp_path / f"{number}.jsonl"))
        (tmp_path / f"{number}.jsonl").write_text("{}\n" * number)
    index = FileIndex(paths, lines.scan_lines, cache=tmp_path, version="1")
    assert index.starts.tolist() == np.cumsum([0, *range(9)]).tolist()
    (tmp_path / "3.jsonl").write_text("[\n")
    with pytest.raises(InputError, match=r"3.jsonl is not a whole tar archive"):
        FileIndex(paths[3:4] * 9, tars.scan_members, cache=tmp_path, version="json")


def test_a_cache_that_cannot_be_written_names_the_option(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match="give the option cache a folder"):
        FileIndex([str(tmp_path / "a.jsonl")], lines.scan_lines, cache=tmp_path / "cache", version="1")


def test_samples_of_a_shard(tmp_path):
    long = "d" * 120
    path = write_tar(
        tmp_path / "0.tar",
        [
            ("000.jpg", b"a"),
            ("000.txt", b"bb"),
            ("000.json", b"ccc"),
            ("x/001.PNG", b"dddd"),
            ("x/001.seg.png", b"no"),
            ("x/001.txt", b"e"),
            ("002.txt", b"f"),
            (f"{long}/003.webp", b"g"),
            ("README", b"no"),
        ],
    )
    samples = scan_samples(path)
    found = [
        [
            read_at(path, int(s[f"{part}_offset"]), int(s[f"{part}_size"])) if s[f"{part}_size"] >= 0 else None
            for part in ("image", "txt", "json")
        ]
        for s in samples
    ]
    assert found == [[b"a", b"bb", b"ccc"], [b"dddd", b"e", None], [None, b"f", None], [b"g", None, None]]


def special(kind, name, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_hostile_members_are_not_entered(tmp_path):
    files = [
        ("good.jpg", b"a"),
        ("../up.jpg", b"b"),
        ("/etc/absolute.jpg", b"c"),
        ("a/../../up.jpg", b"d"),
        ("link.jpg", special(tarfile.SYMTYPE, "link.jpg", "/etc/passwd")),
        ("hard.jpg", special(tarfile.LNKTYPE, "hard.jpg", "/etc/passwd")),
        ("device.jpg", special(tarfile.CHRTYPE, "device.jpg", "")),
        ("pipe.jpg", special(tarfile.FIFOTYPE, "pipe.jpg", "")),
        ("folder.jpg", special(tarfile.DIRTYPE, "folder.jpg", "")),
    ]
    path = write_tar(tmp_path / "0.tar", files)
    before = sorted(tmp_path.rglob("*"))
    assert len(scan_samples(path)) == len(scan_members(path)) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("cut", [600, 1536 + 100, 2 * 1536 + 600, 3 * 1536, 3 * 1536 + 100])
def test_a_truncated_archive_is_named(tmp_path, cut):
    """Three members of a header and two blocks each: cut in a member, in a header, after the last, in the end mark."""
    path = write_tar(tmp_path / "00007.tar", [(f"{number}.jpg", b"x" * 700) for number in range(3)])
    (tmp_path / "00007.tar").write_bytes((tmp_path / "00007.tar").read_bytes()[:cut])
    with pytest.raises(InputError, match=r"00007.tar is not a whole tar archive \(after \d members"):
        scan_samples(path)


@pytest.mark.parametrize("data", [b"", b"not a tar " * 100, b"\x1f\x8b" + b"\0" * 600])
def test_other_files_are_not_archives(tmp_path, data):
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(InputError, match=r"a.tar is not a whole tar archive"):
        scan_samples(str(tmp_path / "a.tar"))


def test_files_in_archives_are_found_by_name(tmp_path):
    paths = [
        write_tar(
            tmp_path / f"{part}.tar", [(f"./{part}{number}.jpg", b"%d%d" % (part, number)) for number in range(40)]
        )
        for part in range(3)
    ]
    for _ in range(2):  # made, and found again
        folder = TarFolder(paths, tmp_path / "cache")
        assert folder.read("239.jpg") == b"239"
        assert folder.read("00.jpg") == b"00"
        assert "117.jpg" in folder
        assert "x.jpg" not in folder
        assert folder.read("x.jpg") is None
    assert io.BytesIO(picture(0)).getvalue()[:2] == b"\xff\xd8"


def test_kept_arrays_are_opened_by_one_thread_at_a_time(tmp_path, monkeypatch):
    """Python 3.11 raises SystemError where two threads parse at once, as numpy.load does with the head of a file."""
    for number in range(8):
        (tmp_path / f"{number}.jsonl").write_text('{"image": "", "text": "a"}\n')
    real, within, most = np.load, [], []

    def load(*arguments, **settings):
        within.append(1)
        most.append(len(within))
        time.sleep(0.005)
        within.pop()
        return real(*arguments, **settings)

    source = make("jsonl", paths=(f"{tmp_path}/*.jsonl",), image="")
    source._index._open.cache_clear()
    monkeypatch.setattr(np, "load", load)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert [example.segments[0].text for example in pool.map(lambda n: source.load(n, 0), range(8))] == ["a"] * 8
    assert (len(most), max(most)) == (8, 1)
