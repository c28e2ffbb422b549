"""`mmjax data`: the examples of each batch, the same for any processes and workers, and a page of rows to look at."""

import json
import re

import pytest

CONFIG = (
    "--config=configs/flamingo_digits.py:tiny",
    "--config.data.sources.read.options.count=60",
    "--config.data.sources.scene.options.count=40",
    "--config.data.sources.bind.options.count=50",
    "--config.data.phases=[{'first_step': 0, 'weights': {'read': 1, 'scene': 1}},"
    "{'first_step': 2, 'weights': {'read': 1, 'scene': 1, 'bind': 2}}]",
)
# A line of `data ids`: the step, a tab, and a row's examples joined by "+", the rows apart by spaces.
EXAMPLE = r"(read|scene|bind):\d+:\d+"
LINE = re.compile(rf"(\d+)\t({EXAMPLE}(\+{EXAMPLE})*( {EXAMPLE}(\+{EXAMPLE})*)*)")


@pytest.fixture
def ids(mmjax):
    """`mmjax data ids`: {step: [row, ...]}."""

    def run(*arguments):
        code, out, err = mmjax("data", "ids", *CONFIG, *arguments)
        assert (code, err) == (0, "")
        lines = [LINE.fullmatch(line) for line in out.splitlines()]
        assert all(lines)
        return {int(line[1]): line[2].split(" ") for line in lines}

    return run


def test_a_line_a_step_with_the_ids_of_its_rows(ids):
    batches = ids("--steps=0:5")
    assert list(batches) == [0, 1, 2, 3, 4]
    assert all(len(rows) == 8 for rows in batches.values())
    assert any("+" in row for row in batches[0])  # several examples are packed in a row
    assert not any(row.startswith("bind:") for row in batches[0] + batches[1])  # the second phase has them
    assert any(row.startswith("bind:") for row in batches[2])
    assert list(ids()) == [0]


def test_a_later_start_sees_the_same(ids):
    assert ids("--steps=3:5") == {step: rows for step, rows in ids("--steps=0:5").items() if step >= 3}


@pytest.mark.parametrize("processes", [2, 8])
def test_processes_share_the_rows_in_order(processes, ids):
    whole = ids("--steps=1:4")
    parts = [ids("--steps=1:4", f"--processes={processes}", f"--process={p}") for p in range(processes)]
    assert {step: [row for part in parts for row in part[step]] for step in whole} == whole
    assert all(len(rows) == 8 // processes for part in parts for rows in part.values())


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers_that_read_the_pictures_see_the_rows_that_are_planned(workers, ids):
    assert ids("--steps=1:4", f"--workers={workers}") == ids("--steps=1:4")
    part = ("--steps=1:4", "--processes=4", "--process=2")
    assert ids(*part, f"--workers={workers}") == ids(*part)


def test_the_seed_decides(ids):
    assert ids("--config.seed=1") != ids() == ids("--config.seed=0")


def test_ids_as_json(mmjax, ids):
    code, out, _ = mmjax("data", "ids", *CONFIG, "--steps", "1:3", "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and {record["step"]: record["rows"] for record in records} == ids("--steps=1:3")


def test_a_page_of_rows(mmjax, ids, tmp_path):
    page = tmp_path / "pages" / "rows.html"
    code, out, err = mmjax("data", "show", *CONFIG, "--steps=2:3", "--out", page)
    assert (code, out, err) == (0, f"wrote {page}\n", "")
    text = page.read_text(encoding="utf-8")
    for row in ids("--steps=2:3")[2]:
        for example in row.split("+"):
            assert example in text
    assert "data:image/png;base64," in text
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)  # nothing is fetched
    code, out, _ = mmjax("data", "show", *CONFIG, "--out", page, "--json")
    assert code == 0 and json.loads(out) == {"page": str(page)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps=5"], "--steps must be A:B with A below B, such as 0:10, not '5'"),
        (["--steps=3:3"], "--steps must be A:B with A below B"),
        (["--steps=-1:3"], "--steps must be A:B with A below B"),
        (["--processes=3"], "batch_size 8 cannot be shared evenly by 3 processes"),
        (["--processes=0"], "batch_size 8 cannot be shared evenly by 0 processes"),
        (["--processes=2", "--process=2"], "process 2 is not one of 2: they are counted from 0"),
        (["--process=-1"], "process -1 is not one of 1: they are counted from 0"),
        (["--workers=-1"], "workers must be 0 or more, not -1"),
        (["--config.data.length=20"], "no example of bind fits a row of 20 tokens and 9 images"),
    ],
)
def test_what_cannot_be_read_is_named(arguments, message, refused):
    assert message in refused("data", "ids", *CONFIG, *arguments)


def test_a_page_that_cannot_be_written_is_named(refused, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path, tmp_path / "file" / "rows.html"):
        assert refused("data", "show", *CONFIG, "--out", out).startswith(f"{out} cannot be written: ")
