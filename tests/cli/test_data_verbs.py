"""`mmjax data check, stats, convert` and `index --verify` as a user runs them."""

import json

import numpy as np
import pytest

from mmjax.cli.table import aligned, kinds
from mmjax.data import convert as conversion
from tests.data.sources.made import WRITERS, picture

CONFIG = """
from configs.flamingo_digits import get_config as digits
def get_config(arg=''):
    config = digits('tiny')
    config.data.sources = {sources!r}
    config.data.update({{'phases': (), 'length': 48, 'max_bad_share': 0.2}})
    return config
"""


@pytest.fixture
def folder(tmp_path):
    """A configuration of two data sets, `pairs` and `pages`; of `pairs` one picture in six is cut short."""
    sources = {}
    for name, kind in (("pairs", "jsonl"), ("pages", "mmc4")):
        (tmp_path / name).mkdir()
        sources[name] = {"kind": kind, "options": WRITERS[kind](tmp_path / name)}
    (tmp_path / "pairs" / "4.jpg").write_bytes(picture(4)[:-80])
    (tmp_path / "config.py").write_text(CONFIG.format(sources=sources))
    return tmp_path


@pytest.fixture
def data(folder, mmjax):
    """Runs `mmjax data WHAT --config THE_CONFIG ARGUMENTS`."""
    return lambda what, *arguments: mmjax("data", what, f"--config={folder / 'config.py'}", *arguments)


def test_check_prints_a_table_and_lists_what_is_bad(data, folder):
    listed = folder / "found" / "bad.jsonl"
    for read in (("6", "6"), ("0", "1")):
        code, out, err = data("check", "--out", listed)
        assert (code, err) == (0, "")
        assert out.splitlines() == [
            "data set  records  read now  good  left out  bad   share  kinds",
            f"pages           6         {read[0]}     6         0    0   0.00%",
            f"pairs           6         {read[1]}     5         0    1  16.67%  1 truncated",
            f"bad records are listed in {listed}",
        ]
    (line,) = listed.read_text().splitlines()
    record = json.loads(line)
    assert sorted(record) == ["file", "id", "kind", "message"]
    assert (record["id"], record["kind"]) == ("pairs:0:4", "truncated")
    assert record["file"] == str(folder / "pairs" / "a.jsonl")


def test_check_refuses_more_than_the_share(data, folder):
    arguments = ("--source=pairs", "--out", folder / "bad.jsonl", "--config.data.max_bad_share=0.1")
    code, out, _ = data("check", *arguments)
    assert code == 2 and out.endswith("more than data.max_bad_share (10.00%) of pairs cannot be used\n")
    code, out, _ = data("check", *arguments, "--json")
    assert code == 2 and json.loads(out) == {
        "name": "pairs",
        "records": 6,
        "read": 1,
        "good": 5,
        "filtered": 0,
        "bad": {"truncated": 1},
        "bad_share": 1 / 6,
    }
    assert data("check", *arguments, "--again", "--source=pages")[0] == 0


def test_stats_are_a_page_for_the_terminal(data):
    code, out, err = data("stats", "--sample=all")
    assert (code, err) == (0, "")
    for part in (
        "pages (mmc4): 6 examples\n",
        "images an example: 1.00 (100.0% 1)",
        "a sample of 6, bad: 1 truncated: ",
        "                        least  5%  25%  50%  75%  95%  most\n",
        "  shorter side, pixels     24  24   24   24   24   24    24\n",
        "  8 to 15 tokens  6  ████████████████████████████████████████\n",
        "shares of the data sets, steps 0 to 511\n          rows  tokens  images   loss\n  pages  ",
        "duplicates among 11 pictures\n  the same file as one before        5 (45.5%)\n",
        "of one shade, not compared         11",
    ):
        assert part in out
    assert all(line == line.rstrip() for line in out.splitlines())
    found = json.loads(data("stats", "--source=pairs", "--sample=3", "--json")[1])
    assert [source["sample"]["examples"] for source in found["sources"]] == [3] and found["shares"] == []


def test_convert_writes_what_it_says_how_to_read(data, folder, mmjax):
    out_folder = folder / "out"
    code, out, err = data(
        "convert", "--source=pages", "--out", out_folder, "--config.data.sources.pages.options.fit=pad"
    )
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first.startswith("pages: 6 examples and 6 pictures in 1 shard, ")
    paths = [f"{out_folder}/pages-*.array_record"]
    assert second == f"read by { ({'kind': 'array_record', 'options': {'paths': paths, 'fit': 'pad'}}) }"
    facts = json.loads(data("convert", "--source=pages", "--out", folder / "small", "--size=8", "--json")[1])
    assert (facts["examples"], facts["size"], facts["quality"], facts["source"]["kind"]) == (6, 8, 90, "mmc4")
    assert facts["bytes"] == (folder / "small" / "pages-00000-of-00001.array_record").stat().st_size
    page = folder / "rows.html"
    again = folder / "again.py"
    again.write_text(CONFIG.format(sources={"pages": {"kind": "array_record", "options": {"paths": paths}}}))
    assert mmjax("data", "show", f"--config={again}", f"--out={page}")[0] == 0
    assert "pages:0:" in page.read_text()


def test_convert_runs_pipelines_of_beam(data, folder, monkeypatch):
    def run(task, shards, *, options):
        assert options == ("--runner=DataflowRunner", "--config.x=1")
        for shard in shards:
            conversion.write_shard(task, shard)

    monkeypatch.setattr("mmjax.cli.data.convert.run_pipeline", run)
    arguments = ("--source=pages", "--out", folder / "out", "--runner=beam")
    code, out, _ = data("convert", *arguments, "--", "--runner=DataflowRunner", "--config.x=1")
    assert code == 0 and "6 examples" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "--out=x", "--source=paris"], "config.data.sources has no data set 'paris'; did you mean pairs?"),
        (["convert", "--out=x", "--source=pairs", "--quality=3"], "--quality is that of pictures that --size shrinks"),
        (["convert", "--out=x", "--source=pairs", "--", "--a=b"], "--a=b is an option of Beam: give --runner beam too"),
        (["convert", "--out=x", "--source=pairs", "--shards=0"], "the number of shards must be from 1 to 99999, not 0"),
        (["check", "--", "--a=b"], "nothing may follow --"),
        (["check", "--source=paris"], "config.data.sources has no data set 'paris'; did you mean pairs?"),
        (["stats", "--sample=many"], "--sample must be a number of examples or all, not 'many'"),
        (["stats", "--distance=16"], "--distance must be from 0 to 15, not 16"),
    ],
)
def test_what_cannot_be_done_is_named(arguments, message, refused, folder, monkeypatch):
    monkeypatch.chdir(folder)
    what, *rest = arguments
    assert message in refused("data", what, f"--config={folder / 'config.py'}", *rest)


def test_a_configuration_is_needed(refused):
    assert refused("data", "stats") == "mmjax data stats needs --config FILE"


def test_index_verifies_what_is_kept(data, folder):
    assert "verified" not in data("index")[1]
    whole = data("index", "--verify", "--source=pages")[1]
    assert whole.splitlines()[1:] == ["  verified 1 files and 6 examples: as kept"]
    (lengths,) = (folder / "pages" / ".mmjax").glob("lengths-*.npy")
    table = np.load(lengths)
    table[0, :2] += 1
    np.save(lengths, table)
    wrong = data("index", "--verify", "--source=pages")[1]
    assert wrong.splitlines()[2:] == [f"  the lengths in {lengths} were wrong: 2 of 6 examples; made anew"]
    assert data("index", "--verify", "--source=pages")[1] == whole
    found = json.loads(data("index", "--verify", "--source=pages", "--json")[1])
    assert found["verified"] == {"files": 1, "examples": 6, "wrong": []}


def test_tables_and_counts_in_words():
    rows = [("", "n", "what"), ("a", "1,000", "x"), ("long", "2", "")]
    assert aligned(rows, left=(0, -1)) == "          n  what\na     1,000  x\nlong      2"
    assert aligned([("a", "b")], indent="  ") == "  a  b"
    assert kinds({"b": 1, "c": 1200, "a": 1}) == "1,200 c, 1 a, 1 b"


def test_sizes_of_all_pictures_are_kept_for_the_statistics(data):
    """The picture that is cut short, of which little is left, has no whole head."""
    code, out, _ = data("stats", "--json", "--sample", "1")
    assert (code, json.loads(out)["sources"][0]["pictures"]) == (0, None)
    code, out, _ = data("index", "--image-sizes", "--source", "pairs")
    assert code == 0 and out.splitlines()[1:] == ["  sizes of 5 pictures are kept; 1 cannot be read"]
    code, out, _ = data("stats", "--sample", "1")
    assert code == 0 and out.count("sizes of all 5 pictures are kept: 0.00 MP; 1 cannot be read\n") == 1
    code, out, _ = data("index", "--image-sizes", "--json")
    pages, pairs = (json.loads(line)["pictures"] for line in out.splitlines())
    assert (pages, pairs) == ({"measured": 6, "unreadable": 0}, {"measured": 5, "unreadable": 1})
