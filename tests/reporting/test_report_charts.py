import json
import math
import re
import xml.etree.ElementTree

import pytest

from mmjax.reporting.charts import Axes, Level, Series, line_chart, thin
from mmjax.reporting.curves import SHARE, gate_series, training_charts, values_of
from mmjax.reporting.svg import (
    DASH,
    MINUS,
    format_number,
    linear_ticks,
    log_ticks,
    path_data,
    percent,
    tag,
    tick_labels,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.02134, "0.0213"),
        (1.5, "1.5"),
        (12.449, "12.4"),
        (999.6, "1,000"),
        (1830, "1,830"),
        (9999, "9,999"),
        (54_210, "54.2k"),
        (999_600, "1M"),
        (3_100_000, "3.1M"),
        (3.1e10, "31B"),
        (2e-5, f"2e{MINUS}5"),
        (-0.5, f"{MINUS}0.5"),
        (math.nan, DASH),
        (None, DASH),
        (-math.inf, f"{MINUS}∞"),
    ],
)
def test_numbers_for_people(value, text):
    assert format_number(value) == text


def test_shares_for_people():
    assert [percent(share) for share in (0.98349, 0.5, 1, 0, 0.9999)] == ["98.3%", "50.0%", "100%", "0%", "100.0%"]


def test_ticks_are_round_and_cover_the_values():
    assert linear_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert linear_ticks(-3, 17) == [-5, 0, 5, 10, 15, 20]
    assert linear_ticks(1e-4, 1e-4) == [0, 5e-5, 1e-4, 1.5e-4, 2e-4]
    assert log_ticks(0.9, 9) == [1, 2, 5]
    assert log_ticks(1e-5, 2e4) == pytest.approx([1e-4, 1e-2, 1, 100, 1e4])
    assert tick_labels([0, 5e-4, 1e-3]) == ["0", f"0.5e{MINUS}3", f"1e{MINUS}3"]
    assert tick_labels([0, 500, 1000]) == ["0", "500", "1,000"]


def test_tags_escape_what_is_not_markup():
    node = tag("text", "a < b", tag("b", "&"), class_="x", text_anchor="end", data_x='"', y=1.26)
    assert str(node) == '<text class="x" text-anchor="end" data-x="&#34;" y="1.3">a &lt; b<b>&amp;</b></text>'


def test_a_line_is_broken_where_a_value_is_missing():
    assert path_data([(0, 1), (1, 2), (2, math.nan), (3, 4)]) == "M0.0 1.0L1.0 2.0M3.0 4.0"


def test_long_curves_keep_their_ends_means_and_extremes():
    series = Series("loss", range(1000), [step % 10 for step in range(1000)], 0)
    short = thin(series, limit=100)
    assert len(short.x) == 100 and (short.x[0], short.x[-1]) == (0, 999)
    assert set(short.y) == {4.5} and set(short.low) == {0} and set(short.high) == {9}
    gap = thin(Series("loss", range(4), [1.0, math.nan, math.nan, math.nan], 0), limit=2)
    assert gap.y[0] == 1.0 and math.isnan(gap.y[1])
    assert thin(short, limit=100) is short


def drawn(axes, series, levels=()):
    """The points of each curve, and the texts of a chart."""
    figure = xml.etree.ElementTree.fromstring(f"<x>{line_chart(axes, series, levels)}</x>").find("figure")
    curves = [
        [tuple(map(float, point.split())) for point in re.split("[ML]", path.attrib["d"])[1:]]
        for path in figure.iter("path")
        if path.attrib["class"] == "curve"
    ]
    return curves, [node.text for node in figure.iter("text")], figure


def test_places_follow_values():
    (curve,), texts, _ = drawn(Axes("Loss", "nats"), [Series("a", [0, 50, 100], [0.0, 2.0, 4.0], 0)])
    (x0, y0), (x1, y1), (x2, y2) = curve
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11) and y0 - y1 == pytest.approx(y1 - y2, abs=0.11) and y0 > y2
    assert {"0", "1", "2", "3", "4", "nats", "step", "100"} <= set(texts)


def test_log_axes_are_used_only_where_they_help_and_can_be():
    wide = Series("a", [1, 2, 3], [1e-3, 1e-1, 10.0], 0)
    (curve,), texts, _ = drawn(Axes("Loss", "nats", log=True), [wide])
    assert curve[0][1] - curve[1][1] == pytest.approx(curve[1][1] - curve[2][1], abs=0.11)
    assert "nats, logarithmic" in texts
    for values in ([0.0, 1.0, 99.0], [5.0, 6.0, 7.0]):
        assert "nats" in drawn(Axes("Loss", "nats", log=True), [Series("a", [1, 2, 3], values, 0)])[1]


def test_values_that_are_not_finite_leave_gaps_and_never_reach_the_page():
    series = [
        Series("a", [1, 2, 3, 4], [1.0, math.nan, math.inf, 2.0], 0),
        Series("nothing", [1], [math.nan], 1),
    ]
    chart = str(line_chart(Axes("Loss"), series))
    assert "nan" not in chart and "inf" not in chart and "nothing" not in chart
    assert line_chart(Axes("Loss"), series[1:]) == ""


def test_legend_and_levels():
    axes = Axes("Score", x_label="shots", x_ticks=((0.0, "0"), (1.0, "8")), whiskers=True, **SHARE)
    series = [Series(name, [0.0, 1.0], [0.5, 0.9], k, [0.4, 0.8], [0.6, 0.95]) for k, name in enumerate("ab")]
    curves, texts, figure = drawn(axes, series, [Level("chance", 0.5), Level("chance", 0.2)])
    assert curves[1][0][0] - curves[0][0][0] == pytest.approx(6), "intervals at one place stand side by side"
    legend = ["".join(node.itertext()) for node in figure.find("div")]
    assert legend == ["a", "b", "chance"] and "8" in texts and "80%" in texts
    titles = [node.text for node in figure.iter("title")]
    assert "b, shots 8: 90.0%  (80.0% to 95.0%)" in titles and "chance: 20.0%" in titles
    hover = json.loads(figure.find("svg").attrib["data-series"])
    assert hover[1]["at"] == ["shots 0", "shots 8"]


def test_gates_come_in_order_of_depth():
    gates = {
        "decoder/tail/cross_0/attention_gate": [0.9],
        "decoder/layers/cross_0/attention_gate": [0.1, 0.3],
        "decoder/layers/cross_2/attention_gate": [0.2, 0.4],
        "decoder/layers/cross_0/mlp_gate": [0.7, 0.8],
    }
    series = gate_series([{"step": 1, "gates": gates}, {"step": 2, "gates": None}, {"step": 3}])
    assert [(one.name, one.y) for one in series] == [
        ("attention 1", [0.1]),
        ("attention 2", [0.2]),
        ("attention 3", [0.3]),
        ("attention 4", [0.4]),
        ("attention 5", [0.9]),
        ("feed-forward 1", [0.7]),
        ("feed-forward 2", [0.8]),
    ]
    assert {one.legend for one in series} == {"attention, blocks 1 to 5", "feed-forward, blocks 1 to 2"}


def test_data_sets_keep_their_colour_on_every_chart():
    rows = [{"step": 1, "loss": 1.0, "loss/a": 1.0, "loss/b": 2.0, "grounding_gap": 0.1, "grounding_gap/b": 0.2}]
    loss, gap = training_charts(rows)
    assert re.search(r'class="c2"><i></i>b', loss) and re.search(r'class="c2"><i></i>b', gap)


def test_only_numbers_are_drawn():
    rows = [{"step": 1, "mfu": None}, {"step": 2, "mfu": 0.5}, {"step": 3, "mfu": "fast"}, {"step": 4, "mfu": True}]
    assert values_of(rows, "mfu") == ([2.0], [0.5])
