"""Every record is read as training would read it; what was good is not read again."""

import json

import pytest

from mmjax.core.errors import ConfigError
from mmjax.data import check as module
from mmjax.data.check import check_source
from mmjax.data.config import DataConfig, SourceEntry
from mmjax.text.tokenizer import TokenizerConfig, make_tokenizer
from tests.data.sources.made import picture, write_lines

TOKENIZER = make_tokenizer(TokenizerConfig())


def config(options, **settings):
    entry = SourceEntry("jsonl", options=options, **settings)
    return DataConfig({"mine": entry}, length=40, images=2, image_size=16)


def check(options, *, again=False, **settings):
    return check_source("mine", config(options, **settings), TOKENIZER, seed=0, again=again)


@pytest.fixture
def damaged(tmp_path):
    """Eight records, of which four cannot be used: by number, the kind."""
    records = [{"image": f"{number}.jpg", "text": f"line {number}"} for number in range(6)]
    records[2]["text"] = " "
    records.append({"image": ["0.jpg", "1.jpg", "3.jpg"], "text": "three"})
    records.append({"image": "none.jpg", "text": "nobody"})
    options = write_lines(tmp_path, records)
    (tmp_path / "4.jpg").write_bytes(picture(4)[:-80])
    return options, {2: "empty_text", 4: "truncated", 6: "too_long", 7: "missing"}


def test_all_that_is_wrong_is_found(damaged):
    options, wrong = damaged
    found = check(options)
    assert [(finding.id, finding.kind) for finding in found.bad] == [
        (f"mine:0:{number}", kind) for number, kind in wrong.items()
    ]
    assert all(finding.file == options["paths"][0] for finding in found.bad)
    assert "4.jpg" in found.bad[1].message and "truncated" in found.bad[1].message
    assert (found.records, found.read, found.good, found.filtered, found.bad_share) == (8, 8, 4, 0, 0.5)
    assert found.kinds == {"empty_text": 1, "truncated": 1, "too_long": 1, "missing": 1}


def test_what_was_good_is_not_read_again_and_what_was_bad_is(damaged, tmp_path):
    options, wrong = damaged
    first = check(options)
    second = check(options)
    assert second == first._replace(read=len(wrong))
    (tmp_path / "4.jpg").write_bytes(picture(4))  # mended
    third = check(options)
    assert (third.good, third.kinds["truncated"]) == (5, 0)
    assert check(options, again=True).read == 8
    (kept,) = (tmp_path / ".mmjax").glob("checked-*.npy")
    kept.write_bytes(b"nonsense")  # a damaged file of what is known: all is read again
    assert check(options) == third._replace(read=8)


def test_an_interrupted_check_goes_on(damaged, monkeypatch):
    options, _ = damaged
    monkeypatch.setattr(module, "_PART", 2)
    part, done = module.check_part, []

    def stop_after_two(*arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return part(*arguments)

    monkeypatch.setattr(
        module, "run_shared", lambda work, tasks, **_: ((n, work(*task)) for n, task in enumerate(tasks))
    )
    monkeypatch.setattr(module, "check_part", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        check(options)
    monkeypatch.setattr(module, "check_part", part)
    found = check(options)
    assert (found.read, found.good, len(found.bad)) == (8 - 3, 4, 4)  # of records 0 to 3 one was bad


def test_filtered_examples_are_not_bad(damaged):
    found = check(damaged[0], min_images=2, max_tokens=12)
    assert found.filtered == 6 and found.kinds == {"empty_text": 1, "too_long": 1}


def test_a_mistake_in_a_reader_is_named_and_the_check_goes_on(tmp_path, monkeypatch):
    options = write_lines(tmp_path, [{"image": "0.jpg", "text": "a"}, {"image": "1.jpg", "text": "b"}])
    monkeypatch.setattr("mmjax.data.sources.tables.row_segments", lambda row, *rest: 1 / (row["text"] == "b") and ())
    found = check(options)
    assert found.kinds == {"uncaught": 1} and "ZeroDivisionError" in found.bad[0].message
    assert found.bad[0].id == "mine:0:0"


def test_other_settings_are_checked_anew(damaged):
    options, _ = damaged
    check(options)
    assert check({**options, "min_side": 100}).kinds["too_small"] > 0
    with open(options["paths"][0], "a") as file:
        file.write(json.dumps({"image": "5.jpg", "text": "one more"}) + "\n")
    assert check(options).read == 9


def test_an_unknown_name(damaged):
    with pytest.raises(ConfigError, match="has no data set 'mind'; did you mean mine"):
        check_source("mind", config(damaged[0]), TOKENIZER, seed=0)
