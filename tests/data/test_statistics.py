"""What is said of a mixture, against what was put in it."""

import itertools
import json

import numpy as np
import pytest

from mmjax.data.config import DataConfig, SourceEntry
from mmjax.data.mixture import Phase
from mmjax.data.statistics import Looked, duplicates, histogram, quantiles, statistics
from mmjax.text.tokenizer import TokenizerConfig, make_tokenizer
from tests.data.sources.made import write_lines
from tests.data.test_duplicates import scenery

TOKENIZER = make_tokenizer(TokenizerConfig())


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Two data sets: pairs of texts of 4 to 23 characters, and pages of two pictures; and what is said of them."""
    folder = tmp_path_factory.mktemp("stats")
    pairs, pages = folder / "pairs", folder / "pages"
    for place in (pairs, pages):
        place.mkdir()
    records = [{"image": f"{n}.jpg", "text": "a" * (4 + n)} for n in range(20)]
    options = {"pairs": write_lines(pairs, [*records, {"image": "0.jpg", "text": ""}])}
    items = [
        [{"image": "0.jpg"}, {"text": "b" * 6}, {"image": "1.jpg"}, {"text": "c", "loss": False}] for _ in range(9)
    ]
    options["pages"] = write_lines(pages, [{"segments": segments} for segments in items])
    for number in range(20):
        scenery(number, (40 + number, 30)).save(pairs / f"{number}.jpg")
    (pairs / "3.jpg").write_bytes((pairs / "3.jpg").read_bytes()[:-300])
    (pairs / "5.jpg").write_bytes((pairs / "4.jpg").read_bytes())
    scenery(6, (46, 30)).save(pairs / "7.jpg", quality=60)
    config = DataConfig(
        {
            "pairs": SourceEntry("jsonl", weight=3.0, options=options["pairs"]),
            "pages": SourceEntry("jsonl", loss_weight=0.5, options=options["pages"]),
        },
        phases=(Phase(0, {"pairs": 3.0, "pages": 1.0}), Phase(6, {"pages": 1.0})),
        length=64,
        images=4,
        image_size=16,
        max_bad_share=0.2,
    )
    return statistics(config, TOKENIZER, batch_size=4, seed=0, sample=None)


def test_lengths_images_and_padding(found):
    pages, pairs = found["sources"]
    assert (pages["name"], pages["kind"], pages["examples"], pages["left_out"]) == ("pages", "jsonl", 9, {})
    assert pairs["left_out"] == {"empty_text": 1}
    lengths = [4 + number + 4 for number in range(20)]  # begin, image, end of chunk, end
    assert pairs["tokens"]["mean"] == pytest.approx(np.mean(lengths))
    assert pairs["tokens"]["quantiles"] == [8, 8, 12, 17, 22, 26, 27]
    assert pairs["tokens"]["histogram"] == [{"from": 8, "to": 16, "count": 8}, {"from": 16, "to": 32, "count": 12}]
    assert (pairs["images"], pages["images"]["mean"]) == ({"mean": 1.0, "counts": {"1": 20}}, 2.0)
    assert pairs["padding"] == pytest.approx(1 - sum(lengths) / (64 * pairs["rows"]))
    assert pairs["examples_a_row"] * pairs["rows"] == pytest.approx(20)
    assert pages["images_a_row"] * pages["rows"] == pytest.approx(18)
    json.dumps(found)


def test_the_sample(found):
    pages, pairs = found["sources"]
    assert pairs["sample"]["bad"] == {"empty_text": 1, "truncated": 1}
    assert pairs["sample"]["pictures"] == 19
    assert pairs["sample"]["shorter_side"] == [30] * 7
    assert pairs["sample"]["longer_side"][0] == 40 and pairs["sample"]["longer_side"][-1] == 59
    # Of a page: begin, image, 6 and the end of the chunk (learned), image, 1, the end of the chunk, end.
    assert pages["sample"]["learned"] == pytest.approx(7 / 13)


def test_the_shares_of_each_phase(found):
    first, second = found["shares"]
    assert (first["first_step"], first["last_step"], second["first_step"]) == (0, 5, 6)
    rows = {row["name"]: row for row in first["sources"]}
    assert rows["pairs"]["rows"] == 0.75
    for what in ("rows", "tokens", "images", "loss"):
        assert sum(row[what] for row in first["sources"]) == pytest.approx(1)
    assert rows["pairs"]["loss"] == pytest.approx(1 / 1.5)  # the weights of two means
    assert [row["rows"] for row in second["sources"]] == [1, 0]


def test_duplicates_of_files_and_of_looks(found):
    told = found["duplicates"]
    assert (told["pictures"], told["plain"]) == (19 + 18, 18)
    assert told["same_file"] == 1 + 16
    assert told["same_look"] == 2
    groups = sorted(sorted(group["ids"]) for group in told["groups"])
    assert groups == [["pairs:0:4", "pairs:0:5"], ["pairs:0:6", "pairs:0:7"]]


def test_a_sample_is_drawn_by_the_seed(tmp_path):
    options = write_lines(tmp_path, [{"image": f"{n % 6}.jpg", "text": "a" * (1 + n)} for n in range(50)])
    config = DataConfig({"mine": SourceEntry("jsonl", options=options)}, length=64, images=4, image_size=16)
    learned = [
        statistics(config, TOKENIZER, batch_size=1, seed=seed, sample=10)["sources"][0]["sample"]["learned"]
        for seed in (0, 0, 1)
    ]
    assert learned[0] == learned[1] != learned[2]


def test_quantiles_and_histograms():
    values = [3, 3, 4, 9, 200]
    counts = np.bincount(values)
    assert quantiles(counts) == [3, 3, 3, 4, 9, 200, 200]
    ranges = histogram(counts)
    assert ranges[0] == {"from": 2, "to": 4, "count": 2} and ranges[-1] == {"from": 128, "to": 256, "count": 1}
    assert all(one["to"] == other["from"] for one, other in itertools.pairwise(ranges))
    assert sum(entry["count"] for entry in ranges) == len(values)
    assert quantiles(np.zeros(0, np.int64)) == histogram(np.zeros(0, np.int64)) == []


def test_nothing_to_compare():
    told = duplicates({"a": [], "b": [Looked(0, 5, 5, 1, None)]}, 3)
    assert (told["pictures"], told["plain"], told["same_file"], told["same_look"], told["groups"]) == (1, 1, 0, 0, [])
