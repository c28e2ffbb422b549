"""The page of a plan: it needs nothing but itself, and its pictures are drawn to scale."""

import re
import xml.etree.ElementTree

import pytest

from mmjax.core.errors import InputError
from mmjax.reporting.plan_page import PlannedPlace, collective_rows, memory_bar, write_plan_page
from mmjax.reporting.roofline_chart import bounds_chart, roofline_chart
from tests.reporting.test_report import Page

GB = 10**9
PLACE = PlannedPlace(
    "configs/flamingo_3b.py",
    "v5e:16x16",
    1,
    256,
    256,
    {"slice": 1, "data": 16, "fsdp": 16, "tensor": 1, "sequence": 1},
    "full",
    197e12,
    819e9,
)
TRAIN = {
    "fits": True,
    "hbm_bytes": 8 * GB,
    "available_bytes": 16 * GB,
    "parts": {"parameters": GB, "optimizer": 2 * GB, "data": 0, "gradients": GB, "activations": 4 * GB},
    "state_bytes": 3 * GB,
    "whole_state_bytes": 768 * GB,
    "donated_bytes": 3 * GB,
    "temp_bytes": 5 * GB,
    "model_flops": 50e12,
    "hardware_flops": 60e12,
    "hbm_traffic_bytes": 80 * GB,
    "collectives": {
        "all-gather": {"data+fsdp": {"count": 2, "bytes": GB}, "fsdp": {"count": 90, "bytes": 6 * GB}},
        "all-reduce": {"data": {"count": 7, "bytes": 3 * GB}},
    },
    "bound_seconds": {"compute": 0.3, "hbm": 0.1, "ici": 0.15, "dcn": 0.0},
    "roofline_seconds": 0.3,
    "bound": "compute",
    "roofline_mfu": 0.85,
    "estimated_seconds": 0.45,
    "estimated_by": "the bounds one after the other",
    "warnings": ["along <fsdp>, 4 GB are made by all-reduces"],
    "mesh": PLACE.mesh,
    "program_bytes": 3 * 10**6,
    "whole_gathers": ["100 bytes: jit(step)/mlp"],
    "seconds": {"total": 12.0},
}
TOLD_BY_ITS_COMPILED_PROGRAM = {
    "donated_bytes",
    "temp_bytes",
    "hbm_traffic_bytes",
    "collectives",
    "bound_seconds",
    "roofline_seconds",
    "bound",
    "roofline_mfu",
    "estimated_seconds",
    "estimated_by",
    "program_bytes",
}
OVER = {
    **TRAIN,
    **dict.fromkeys(TOLD_BY_ITS_COMPILED_PROGRAM),
    "fits": False,
    "hbm_bytes": 20 * GB,
    "parts": {**TRAIN["parts"], "activations": 16 * GB},
    "warnings": [],
    "whole_gathers": [],
    "moves": [{"kind": "remat policy", "settings": "--config.model.config.decoder.remat=full", "plan": TRAIN}],
}
COST = {
    "share": 0.7,
    "step_seconds": 0.43,
    "rows_per_day": 4.1e8,
    "examples_per_day": None,
    "steps": 500_000,
    "chip_hours": 15_000.4,
    "padding_share": None,
    "padding_reason": "there is no file data/m3w",
}


def drawn(markup):
    return xml.etree.ElementTree.fromstring(f"<x>{markup}</x>")


def boxes(markup, kind):
    """(x, width) of the rectangles of a class."""
    found = [node for node in drawn(markup).iter("rect") if kind in node.attrib["class"].split()]
    return [(float(node.attrib["x"]), float(node.attrib["width"])) for node in found]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("plans") / "plan.html"
    assert write_plan_page(path, PLACE, {"train": TRAIN, "decode": OVER}, COST) == path
    return path.read_text(encoding="utf-8")


def test_the_page_needs_nothing_but_itself(page):
    parsed = Page(page)
    assert all(address.startswith("#") for address in parsed.addresses)
    assert not {"script", "link", "iframe", "img"} & set(parsed.tags)
    assert "url(" not in page and "@import" not in page and "prefers-color-scheme: dark" in page
    assert not re.findall(r"https?://", page)


def test_the_page_tells_what_the_plan_does(page):
    text = Page(page).text
    for words in (
        "flamingo_3b.py on v5e:16x16",
        "256 chips, mesh data 16 x fsdp 16 , strategy full",
        "train fits, 50.0% to spare",
        "decode does not fit: 4 GB too much",
        "train: 2 warnings",
        "along <fsdp>, 4 GB are made by all-reduces",
        "outside the loop over layers: 100 bytes: jit(step)/mlp",
        "A step takes at least bound by compute",
        "750 FLOPs a byte, at most 200 TFLOP/s",
        "300 ms, bound by compute",
        "--config.model.config.decoder.remat=full",
        "chip-hours 15,000",
        "410,000,000",
        "not known: there is no file data/m3w",
    ):
        assert words in text, words
    assert "None" not in text and "nan" not in text
    assert page.count("<svg") == 4, "what does not fit has no bounds"


def test_memory_is_drawn_to_scale():
    bar = memory_bar("train", TRAIN["parts"], 16 * GB)
    assert boxes(bar, "room") == [(0, 1000)]
    assert boxes(bar, "fill") == [(0, 62.5), (62.5, 125), (187.5, 62.5), (250, 250), (500, 0)]
    assert boxes(bar, "over") == []
    over = memory_bar("train", OVER["parts"], 16 * GB)
    assert boxes(over, "fill")[-1] == (1000, 0) and boxes(over, "over") == [(800, 200)]
    (limit,) = [node for node in drawn(over).iter("line")]
    assert limit.attrib["x1"] == limit.attrib["x2"] == "800.0"


def test_bounds_are_drawn_to_scale_and_the_binding_one_is_marked():
    chart = bounds_chart({"compute": 0.1, "hbm": 0.3, "ici": 0.0, "dcn": 0.0}, "hbm", 0.4, "a guess")
    (_, binding), (_, guess) = *boxes(chart, "binding"), *boxes(chart, "guess")
    (_, compute), (_, ici) = boxes(chart, "bound")
    assert (binding / guess, compute / guess) == pytest.approx((0.75, 0.25), abs=0.001)
    assert ici == 1, "what takes no time is a line"
    texts = [node.text for node in drawn(chart).iter("text")]
    assert texts == ["compute", "100 ms", "HBM", "300 ms", "ICI", "0 s", "estimate", "400 ms"]
    between = bounds_chart({"compute": 0.1, "hbm": 0.3, "ici": 0.0, "dcn": 0.5}, "dcn", 0.9, "a guess")
    assert "DCN" in [node.text for node in drawn(between).iter("text")]


def place_of(plan, peak=200e12, bandwidth=800e9):
    """The program's point, and the corners of the roof."""
    chart = drawn(roofline_chart("train", plan, peak, bandwidth))
    (point,) = chart.iter("circle")
    (roof,) = [node for node in chart.iter("path") if node.attrib["class"] == "roof"]
    corners = [tuple(map(float, one.split())) for one in re.split("[ML]", roof.attrib["d"])[1:]]
    return (float(point.attrib["cx"]), float(point.attrib["cy"])), corners


def test_a_program_stands_on_the_roof_unless_other_chips_bind_it():
    """Peak 200 TFLOP/s at 250 FLOPs a byte and above."""

    def bound(flops, traffic, seconds, by):
        return {
            **TRAIN,
            "hardware_flops": flops,
            "hbm_traffic_bytes": traffic,
            "roofline_seconds": seconds,
            "bound": by,
        }

    (x, y), (_, ridge, end) = place_of(bound(200e12, 200e9, 1.0, "compute"))
    assert ridge[0] < x < end[0] and y == pytest.approx(ridge[1]) == pytest.approx(end[1])
    (x, y), (start, ridge, _) = place_of(bound(20e12, 800e9, 1.0, "hbm"))
    along = (x - start[0]) / (ridge[0] - start[0])
    assert 0 < along < 1 and y == pytest.approx(start[1] + along * (ridge[1] - start[1]), abs=0.2)
    (_, y), (_, ridge, _) = place_of(bound(200e12, 200e9, 3.0, "ici"))
    assert y > ridge[1] + 5
    assert roofline_chart("decode", bound(0, 200e9, 1.0, "hbm"), 200e12, 800e9) == ""


def test_collectives_are_ranked_by_what_they_send():
    rows = collective_rows(TRAIN["collectives"])
    assert [(row["kind"], row["axes"], row["count"], row["size"], row["share"]) for row in rows] == [
        ("all-gather", "fsdp", 90, "6 GB", 0.6),
        ("all-reduce", "data", 7, "3 GB", 0.3),
        ("all-gather", "data + fsdp", 2, "1 GB", 0.1),
    ]
    assert collective_rows({}) == []


def test_a_page_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere/plan\.html cannot be written: No such file or directory"):
        write_plan_page(tmp_path / "nowhere" / "plan.html", PLACE, {"train": TRAIN}, None)
