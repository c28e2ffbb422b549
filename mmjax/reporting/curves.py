"""The curves of a run: which of its logged values go on which chart, in which unit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mmjax.reporting.charts import Axes, Level, Series, line_chart
from mmjax.reporting.svg import percent

Rows = Sequence[Mapping[str, Any]]

SHARE = {"y_range": (0, 1), "value_text": percent, "tick_texts": lambda ticks: [percent(tick, 0) for tick in ticks]}

_FEW = 4  # curves of one chart that are told apart by colour alone


def training_charts(metrics: Rows) -> list[Markup]:
    """Charts of the logged steps, in the order in which they are read; those with nothing to show are left out."""
    charts = [
        line_chart(
            Axes("Loss", "nats a token", "by data set", log=True), _by_dataset(metrics, "loss", "all, weighted")
        ),
        line_chart(
            Axes("Grounding gap", "nats a token", "pictures blanked minus shown"),
            _by_dataset(metrics, "grounding_gap", "all, weighted"),
            [Level("pictures make no difference", 0.0)],
        ),
        line_chart(
            Axes("Accuracy", "of learned tokens", "next token right, by data set", **SHARE),
            _by_dataset(metrics, "accuracy", "all"),
        ),
        line_chart(
            Axes("Gates", "tanh of the gate", "how far each block is open"),
            gate_series(metrics),
            [Level("closed", 0.0)],
        ),
        line_chart(
            Axes("Norms", "L2", "of all parameters together", log=True),
            _named(metrics, {"gradient_norm": "gradient", "update_norm": "update", "parameter_norm": "parameters"}),
        ),
        line_chart(Axes("Learning rate"), _named(metrics, {"learning_rate": "learning rate"})),
        line_chart(
            Axes("Throughput", "tokens a second", "useful: not padding"),
            _named(metrics, {"tokens_per_second": "all", "useful_tokens_per_second": "useful"}),
        ),
        line_chart(
            Axes("Shares", "", "of tokens, of time, of the chips' peak", **SHARE),
            _named(
                metrics,
                {"useful_token_share": "tokens useful", "data_wait_share": "time waiting for data", "mfu": "MFU"},
            ),
        ),
    ]
    return [chart for chart in charts if chart]


def values_of(rows: Rows, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of `key`, where it was logged as a number (JSON's NaN and Infinity are numbers)."""
    found = [(row["step"], row[key]) for row in rows if _is_number(row.get(key)) and _is_number(row.get("step"))]
    return [float(step) for step, _ in found], [float(value) for _, value in found]


def gate_series(metrics: Rows) -> list[Series]:
    """One curve a gate, from the first block to the last; gates of attention and of feed-forwards in two colours.

    A path that ends in `layers/cross_j/attention_gate` lists the gates of block j of every superblock in order of
    depth; those of the tail come last.
    """
    found: dict[tuple[str, tuple[int, int, int]], tuple[list[float], list[float]]] = {}
    for row in metrics:
        gates = row.get("gates")
        for path, values in gates.items() if isinstance(gates, Mapping) else ():
            kind = "feed-forward" if path.endswith("mlp_gate") else "attention"
            block = re.search(r"cross_(\d+)", path)
            tail = int("tail/" in path)
            for number, value in enumerate(values if isinstance(values, list) else [values]):
                if not _is_number(value):
                    continue
                depth = (tail, number, int(block.group(1)) if block else 0)
                steps, curve = found.setdefault((kind, depth), ([], []))
                steps.append(float(row["step"]))
                curve.append(float(value))
    series: list[Series] = []
    by_kind = len(found) > _FEW
    for colour, kind in enumerate(("attention", "feed-forward")):
        depths = sorted(depth for other, depth in found if other == kind)
        for number, depth in enumerate(depths, 1):
            steps, curve = found[kind, depth]
            name = f"{kind} {number}" if len(depths) > 1 else kind
            legend = f"{kind}, blocks 1 to {len(depths)}" if by_kind and len(depths) > 1 else name
            series.append(Series(name, steps, curve, colour if by_kind else len(series), legend=legend))
    return series


def _by_dataset(rows: Rows, key: str, whole: str) -> list[Series]:
    """`key` itself and `key/NAME` of every data set, each data set in the same colour on every chart."""
    names = sorted({name.split("/", 1)[1] for row in rows for name in row if name.startswith(("loss/", f"{key}/"))})
    series = []
    if not (len(names) == 1 and any(f"{key}/{names[0]}" in row for row in rows)):
        steps, values = values_of(rows, key)
        series.append(Series(whole, steps, values, 0))
    for colour, name in enumerate(names, 1):
        steps, values = values_of(rows, f"{key}/{name}")
        series.append(Series(name, steps, values, colour))
    return series


def _named(rows: Rows, names: Mapping[str, str]) -> list[Series]:
    return [Series(name, *values_of(rows, key), colour) for colour, (key, name) in enumerate(names.items())]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
