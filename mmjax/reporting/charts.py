"""Line charts as inline SVG: they take the page's colours, stay crisp at any size, and need nothing but the page."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup

from mmjax.reporting.svg import format_number, join, linear_ticks, log_ticks, path_data, tag, tick_labels

COLOURS = 8  # that the page has for series
MAX_POINTS = 160  # a curve of more is drawn as means of equal stretches, with a band from least to greatest
_LEFT, _TOP, _BELOW, _MARGIN = 46.0, 24.0, 34.0, 8.0  # of the plot within the picture


@dataclasses.dataclass(frozen=True)
class Series:
    """A curve. `low` and `high` are an interval about `y`; `legend` names it together with others of its kind."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    legend: str = ""


@dataclasses.dataclass(frozen=True)
class Level:
    """A dashed horizontal line with a name, such as chance."""

    name: str
    y: float


@dataclasses.dataclass(frozen=True)
class Axes:
    """How a chart is drawn.

    unit: of y. x_ticks: (place, label), for an x that is not a number line. log: y is logarithmic where all values
    are positive and the greatest is more than 20 times the least. whiskers: points with intervals as bars, side by
    side where series share an x; otherwise intervals are bands. size: of the picture, in which text is 12 units high.
    """

    title: str
    unit: str = ""
    note: str = ""
    x_label: str = "step"
    x_ticks: tuple[tuple[float, str], ...] = ()
    y_range: tuple[float, float] | None = None
    log: bool = False
    whiskers: bool = False
    value_text: Callable[[float], str] = format_number
    tick_texts: Callable[[Sequence[float]], list[str]] = tick_labels
    size: tuple[float, float] = (350.0, 212.0)


def line_chart(axes: Axes, series: Sequence[Series], levels: Sequence[Level] = ()) -> Markup:
    """A figure with caption, axes, curves and a legend that gives the last values; empty where nothing is finite."""
    series = [thin(one) for one in series if any(map(math.isfinite, one.y))]
    if not series:
        return Markup("")
    scale = _Scale.of(axes, series, levels)
    drawn = [_curve(axes, scale, one, series) for one in series]
    picture = tag(
        "svg",
        _frame(axes, scale),
        *[_level(axes, scale, level) for level in levels],
        *drawn,
        tag("g", class_="cursor"),
        viewBox=f"0 0 {axes.size[0]:g} {axes.size[1]:g}",
        role="img",
        aria_label=f"{axes.title}: " + "; ".join(f"{one.name} {_last(axes, one)}" for one in series[:COLOURS]),
        data_series=json.dumps([_hover(axes, scale, one) for one in series], separators=(",", ":")),
    )
    caption = [tag("b", axes.title)]
    if axes.note:
        caption += [" ", tag("span", axes.note)]
    return tag("figure", tag("figcaption", *caption), picture, _legend(axes, series, levels), class_="chart")


def thin(series: Series, limit: int = MAX_POINTS) -> Series:
    """`series` with at most `limit` points: means of stretches, with the least and greatest value of each."""
    if len(series.x) <= limit:
        return series
    x, y, low, high = [], [], [], []
    for number in range(limit):
        stretch = slice(number * len(series.x) // limit, (number + 1) * len(series.x) // limit)
        values = [value for value in series.y[stretch] if math.isfinite(value)]
        x.append(sum(series.x[stretch]) / len(series.x[stretch]))
        y.append(sum(values) / len(values) if values else math.nan)
        low.append(min(values, default=math.nan))
        high.append(max(values, default=math.nan))
    x[0], x[-1] = series.x[0], series.x[-1]
    return dataclasses.replace(series, x=x, y=y, low=low, high=high)


@dataclasses.dataclass(frozen=True)
class _Scale:
    """Values to places on the picture. `right` and `bottom` are the plot's edges."""

    right: float
    bottom: float
    x_ends: tuple[float, float]
    y_ends: tuple[float, float]
    y_ticks: tuple[float, ...]
    log: bool

    @classmethod
    def of(cls, axes: Axes, series: Sequence[Series], levels: Sequence[Level]) -> _Scale:
        xs = [x for one in series for x in one.x] + [x for x, _ in axes.x_ticks]
        ys = [y for one in series for part in (one.y, one.low or (), one.high or ()) for y in part if math.isfinite(y)]
        ys += [level.y for level in levels]
        low, high = axes.y_range or (min(ys), max(ys))
        log = axes.log and low > 0 and high > 20 * low
        if log:
            low, high = low / 1.2, high * 1.2
            ticks = log_ticks(low, high)
        else:
            ticks = linear_ticks(low, high)
            low, high = ticks[0], ticks[-1]
        left, right = min(xs), max(xs)
        if axes.x_ticks or left == right:
            left, right = left - 0.5, right + 0.5
        elif 0 < left < right / 4:
            left = 0.0
        width, height = axes.size
        return cls(width - _MARGIN, height - _BELOW, (left, right), (low, high), tuple(ticks), log)

    def x(self, value: float) -> float:
        low, high = self.x_ends
        return _LEFT + (value - low) / (high - low) * (self.right - _LEFT)

    def y(self, value: float) -> float:
        if not math.isfinite(value) or (self.log and value <= 0):
            return math.nan
        low, high, value = (math.log(v) if self.log else v for v in (*self.y_ends, value))
        return self.bottom - (value - low) / (high - low) * (self.bottom - _TOP)


def _frame(axes: Axes, scale: _Scale) -> Markup:
    parts = []
    for value, label in zip(scale.y_ticks, axes.tick_texts(scale.y_ticks), strict=True):
        y = scale.y(value)
        parts.append(tag("line", x1=_LEFT, x2=scale.right, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", label, x=_LEFT - 7, y=y + 4, text_anchor="end"))
    inside = [
        value
        for value in linear_ticks(*scale.x_ends)
        if scale.x_ends[0] <= value <= scale.x_ends[1] and value == round(value)
    ]
    for value, label in axes.x_ticks or zip(inside, tick_labels(inside), strict=True):
        parts.append(tag("text", label, x=scale.x(value), y=scale.bottom + 17, text_anchor="middle"))
    parts.append(tag("text", axes.x_label, x=scale.right, y=scale.bottom + 31, text_anchor="end"))
    unit = f"{axes.unit}, logarithmic" if scale.log else axes.unit
    parts.append(tag("text", unit, x=0, y=11))
    return tag("g", *parts)


def _level(axes: Axes, scale: _Scale, level: Level) -> Markup:
    y = scale.y(level.y)
    text = f"{level.name}: {axes.value_text(level.y)}"
    return tag("line", tag("title", text), x1=_LEFT, x2=scale.right, y1=y, y2=y, class_="level")


def _curve(axes: Axes, scale: _Scale, series: Series, every: Sequence[Series]) -> Markup:
    points = [
        (scale.x(x) + _aside(axes, series, every, x), scale.y(y)) for x, y in zip(series.x, series.y, strict=True)
    ]
    parts = []
    if series.low is not None and series.high is not None:
        lows = [scale.y(value) for value in series.low]
        highs = [scale.y(value) for value in series.high]
        ends = list(zip([x for x, _ in points], lows, highs, strict=True))
        parts.append(_whiskers(ends) if axes.whiskers else _band(ends))
    parts.append(tag("path", tag("title", series.name), d=path_data(points), class_="curve"))
    finite = [(place, x, y) for place, (x, y) in enumerate(points) if math.isfinite(y)]
    if axes.whiskers or len(finite) <= 24:
        parts += [
            tag("circle", tag("title", _point_text(axes, series, place)), cx=x, cy=y, r=3) for place, x, y in finite
        ]
    return tag("g", *parts, class_=f"c{series.colour % COLOURS}")


def _aside(axes, series, every, x) -> float:
    """How far a point stands aside, so that the whiskers of several series at one place can be told apart."""
    if not axes.whiskers:
        return 0.0
    here = [other.name for other in every if x in other.x]
    return 6 * (here.index(series.name) - (len(here) - 1) / 2)


def _band(ends) -> Markup:
    ends = [(x, low, high) for x, low, high in ends if math.isfinite(low) and math.isfinite(high)]
    outline = [(x, high) for x, _, high in ends] + [(x, low) for x, low, _ in reversed(ends)]
    return tag("path", d=path_data(outline) + "Z", class_="band") if ends else Markup("")


def _whiskers(ends) -> Markup:
    return join(
        tag("line", x1=x, x2=x, y1=low, y2=high, class_="whisker")
        for x, low, high in ends
        if math.isfinite(low) and math.isfinite(high)
    )


def _x_text(axes: Axes, x: float) -> str:
    return f"{axes.x_label} {dict(axes.x_ticks).get(x, f'{x:,.0f}')}"


def _value(axes: Axes, series: Series, place: int) -> str:
    text = axes.value_text(series.y[place])
    if series.low is not None and series.high is not None and math.isfinite(series.low[place]):
        low, high = axes.value_text(series.low[place]), axes.value_text(series.high[place])
        return text if low == high else f"{text}  ({low} to {high})"
    return text


def _point_text(axes: Axes, series: Series, place: int) -> str:
    return f"{series.name}, {_x_text(axes, series.x[place])}: {_value(axes, series, place)}"


def _hover(axes: Axes, scale: _Scale, series: Series) -> dict[str, Any]:
    """What the page's script needs to show the values under the pointer: places in the picture, and texts."""
    kept = [place for place, y in enumerate(series.y) if math.isfinite(scale.y(y))]
    return {
        "name": series.name,
        "colour": series.colour % COLOURS,
        "x": [round(scale.x(series.x[place]), 1) for place in kept],
        "y": [round(scale.y(series.y[place]), 1) for place in kept],
        "at": [_x_text(axes, series.x[place]) for place in kept],
        "text": [_value(axes, series, place) for place in kept],
    }


def _last(axes: Axes, series: Series) -> str:
    finite = [y for y in series.y if math.isfinite(y)]
    return axes.value_text(finite[-1])


def _legend(axes: Axes, series: Sequence[Series], levels: Sequence[Level]) -> Markup:
    entries: dict[str, list[Series]] = {}
    for one in series:
        entries.setdefault(one.legend or one.name, []).append(one)
    parts = []
    for name, members in entries.items():
        content = [tag("i"), name]
        if len(members) == 1 and not axes.whiskers:
            content += [" ", tag("b", _last(axes, members[0]))]
        parts.append(tag("span", *content, class_=f"c{members[0].colour % COLOURS}"))
    for name in dict.fromkeys(level.name for level in levels):
        parts.append(tag("span", tag("i", class_="dashed"), name))
    return tag("div", *parts, class_="legend")
