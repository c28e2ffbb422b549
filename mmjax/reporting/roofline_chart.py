"""What binds a program, as two pictures: its bounds in seconds, and its place under the roofline (Williams et al.
2009)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from mmjax.core.quantities import quantity, seconds_text
from mmjax.reporting.svg import format_number, path_data, tag

_WIDTH = 460.0
NAMES = {"compute": "compute", "hbm": "HBM", "ici": "ICI", "dcn": "DCN"}


def bounds_chart(seconds: Mapping[str, float], binding: str, estimate: float, estimated_by: str) -> Markup:
    """A bar for each bound, the binding one marked, and a hollow one for the estimate."""
    left, right, row = 74.0, 380.0, 44.0
    longest = max(*seconds.values(), estimate) or 1.0
    drawn = []
    seconds = {name: value for name, value in seconds.items() if value or name != "dcn"}
    for number, (name, value) in enumerate(seconds.items()):
        kind = "binding" if name == binding else "bound"
        drawn.append(_bar(NAMES[name], value, left, number * row, (right - left) * value / longest, kind))
    drawn.append(_bar("estimate", estimate, left, len(seconds) * row, (right - left) * estimate / longest, "guess"))
    height = row * (len(seconds) + 1)
    text = "; ".join(f"{NAMES[name]} {seconds_text(value)}" for name, value in seconds.items())
    picture = tag("svg", *drawn, viewBox=f"0 0 {_WIDTH:g} {height:g}", role="img", aria_label=f"bounds: {text}")
    caption = tag("figcaption", tag("b", "A step takes at least"), " ", tag("span", f"bound by {NAMES[binding]}"))
    note = tag("p", f"The estimate, not measured: {estimated_by}.", class_="small quiet")
    return tag("figure", caption, picture, note, class_="chart")


def _bar(name: str, seconds: float, x: float, y: float, length: float, kind: str) -> Markup:
    label = tag("text", name, x=x - 10, y=y + 26, text_anchor="end", class_=kind)
    box = tag("rect", x=x, y=y + 9, width=max(length, 1.0), height=25.0, rx=3.0, class_=f"{kind} bar-of-time")
    value = tag("text", seconds_text(seconds), x=x + length + 7, y=y + 26, class_=kind)
    return tag("g", label, box, value)


def roofline_chart(name: str, plan: Mapping[str, Any], peak_flops: float, hbm_bandwidth: float) -> Markup:
    """FLOP/s that a device attains at most against FLOPs a byte of HBM traffic, both logarithmic.

    The program's point is at its own FLOPs and the greatest of its bounds: beneath the roof where other chips bind it.
    """
    flops, traffic = plan["hardware_flops"], plan["hbm_traffic_bytes"]
    if not flops or not traffic:
        return Markup("")
    intensity, attained = flops / traffic, flops / plan["roofline_seconds"]
    ridge = peak_flops / hbm_bandwidth
    scale = _LogScale.around((intensity, ridge / 10, ridge), (attained, peak_flops))
    low, high = scale.x_ends
    roof = [(x, min(peak_flops, x * hbm_bandwidth)) for x in (low, ridge, high)]
    # The slope enters through the floor where the axis begins below it.
    start = max(low, scale.y_ends[0] / hbm_bandwidth)
    roof[0] = (start, start * hbm_bandwidth)
    x, y = scale.x(intensity), scale.y(attained)
    over = scale.y(min(peak_flops, intensity * hbm_bandwidth))
    near_end = x > scale.right - 120
    drawn = [
        _grid(scale),
        tag("path", d=path_data((scale.x(a), scale.y(b)) for a, b in roof), class_="roof"),
        tag("text", f"{quantity(peak_flops, 'FLOP/s')}", x=scale.right, y=scale.y(peak_flops) - 7, text_anchor="end"),
        *_slope_label(scale, hbm_bandwidth, ridge, start),
        tag("line", x1=x, x2=x, y1=over, y2=scale.bottom, class_="level"),
        tag(
            "g",
            tag("circle", tag("title", _told(name, intensity, attained)), cx=x, cy=y, r=5.5),
            class_=f"c{0 if plan['bound'] in ('compute', 'hbm') else 1}",
        ),
        tag("text", name, x=x + (-10 if near_end else 10), y=y + 18, text_anchor="end" if near_end else "start"),
    ]
    box = f"0 0 {_WIDTH:g} {scale.height:g}"
    picture = tag("svg", *drawn, viewBox=box, role="img", aria_label=f"roofline: {_told(name, intensity, attained)}")
    told = f"{format_number(intensity)} FLOPs a byte, at most {quantity(attained, 'FLOP/s')}"
    caption = tag("figcaption", tag("b", "Roofline of a device"), " ", tag("span", told))
    beneath = {
        "ici": "Beneath the roof, because what is sent to other chips binds it.",
        "dcn": "Beneath the roof, because what is sent to other slices binds it.",
    }.get(plan["bound"], f"The roof bends at {ridge:,.0f} FLOPs a byte of HBM traffic.")
    return tag("figure", caption, picture, tag("p", beneath, class_="small quiet"), class_="chart")


def _told(name, intensity, attained) -> str:
    return f"{name}: {format_number(intensity)} FLOPs a byte, {quantity(attained, 'FLOP/s')}"


class _LogScale:
    """Values to places, by whole powers of ten."""

    left, top, right, bottom, height = 62.0, 26.0, _WIDTH - 26, 216.0, 252.0

    def __init__(self, x_ends: tuple[float, float], y_ends: tuple[float, float]):
        self.x_ends, self.y_ends = x_ends, y_ends

    @classmethod
    def around(cls, xs, ys) -> _LogScale:
        """Room for all values, and some beside them."""

        def ends(values):
            low, high = (math.log10(value) for value in (min(values), max(values)))
            return 10.0 ** math.floor(low - 0.3), 10.0 ** math.ceil(high + 0.3)

        return cls(ends(xs), ends(ys))

    def x(self, value: float) -> float:
        return self.left + _share(value, self.x_ends) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - _share(value, self.y_ends) * (self.bottom - self.top)


def _share(value, ends):
    low, high = map(math.log10, ends)
    return (math.log10(value) - low) / (high - low)


def _powers(ends):
    first, last = (round(math.log10(end)) for end in ends)
    step = -(-(last - first) // 6)
    return [10.0**power for power in range(first, last + 1, step)]


def _grid(scale: _LogScale) -> Markup:
    parts = [tag("text", "FLOP/s", x=0, y=12)]
    for value in _powers(scale.y_ends):
        y = scale.y(value)
        parts.append(tag("line", x1=scale.left, x2=scale.right, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", quantity(value, ""), x=scale.left - 7, y=y + 4, text_anchor="end"))
    for value in _powers(scale.x_ends):
        x = scale.x(value)
        parts.append(tag("line", x1=x, x2=x, y1=scale.top, y2=scale.bottom, class_="grid"))
        label = f"{value:,.0f}" if value >= 1 else f"{value:g}"
        parts.append(tag("text", label, x=x, y=scale.bottom + 17, text_anchor="middle"))
    parts.append(tag("text", "FLOPs a byte of HBM traffic", x=scale.right, y=scale.bottom + 33, text_anchor="end"))
    return tag("g", *parts)


def _slope_label(scale: _LogScale, bandwidth: float, ridge: float, start: float) -> list[Markup]:
    """The bandwidth, written along the slope."""
    ends = [(scale.x(value), scale.y(value * bandwidth)) for value in (start, ridge)]
    (x0, y0), (x1, y1) = ends
    if math.hypot(x1 - x0, y1 - y0) < 90:
        return []
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    turn = math.degrees(math.atan2(y1 - y0, x1 - x0))
    return [
        tag(
            "text",
            quantity(bandwidth, "B/s"),
            text_anchor="middle",
            transform=f"translate({x:.1f} {y - 8:.1f}) rotate({turn:.1f})",
        )
    ]
