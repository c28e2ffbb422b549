"""Tags of SVG, escaped, and the numbers and ticks that charts are labelled with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup, escape

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


def tag(name: str, *children: Any, **attributes: Any) -> Markup:
    """An element. `class_` and `text_anchor` become `class` and `text-anchor`; floats are places, to a tenth."""
    written = Markup("")
    for key, value in attributes.items():
        text = f"{value:.1f}" if isinstance(value, float) else value
        written += Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), text)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, join(children))


def join(parts: Iterable[Any]) -> Markup:
    """Parts one after another; what is not markup is escaped."""
    return Markup("").join(escape(part) for part in parts)


def path_data(points: Iterable[tuple[float, float]]) -> str:
    """The `d` of a line through `points`, with a gap where one is not finite."""
    commands, pen_down = [], False
    for x, y in points:
        if not math.isfinite(y):
            pen_down = False
            continue
        commands.append(f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}")
        pen_down = True
    return "".join(commands)


def format_number(value: float | None, digits: int = 3) -> str:
    """A number for people: 0.0213, 12.4, 1,830, 54.2k, 3.1M, 2e-5."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    size = abs(value)
    sign = MINUS if value < 0 else ""
    if size == 0:
        return "0"
    if size < 1e-3:
        mantissa, exponent = f"{size:.{digits - 1}e}".split("e")
        return f"{sign}{float(mantissa):g}e{MINUS}{abs(int(exponent))}"
    if size < 9999.5:
        decimals = max(0, digits - 1 - math.floor(math.log10(size)))
        text = f"{size:,.{decimals}f}"
        return sign + (text.rstrip("0").rstrip(".") if "." in text else text)
    for unit in ("k", "M", "B", "T"):
        size /= 1000
        if float(f"{size:.{digits}g}") < 1000 or unit == "T":
            return f"{sign}{size:.{digits}g}{unit}"
    raise AssertionError("unreachable")


def counted(count: int, noun: str) -> str:
    """`1 skipped step`, `2 skipped steps`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def percent(share: float | None, digits: int = 1) -> str:
    """A share for people: 98.3%; a whole number where it is exactly that much or nothing at all."""
    if share is None or math.isnan(share):
        return DASH
    return f"{100 * share:.{0 if share in (0, 1) else digits}f}%"


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers that cover [low, high] from outside."""
    if high <= low:
        pad = abs(low) or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12 - math.floor(math.log10(step))) for k in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers within [low, high], both positive: 1-2-5, 1-3, or powers of ten, as dense as `most` allows."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas, stride in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 4)):
        ticks = [m * 10.0**e for e in exponents if e % stride == 0 for m in mantissas if low <= m * 10.0**e <= high]
        if len(ticks) <= most:
            break
    return ticks


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """The ticks of one axis in one notation."""
    most = max(map(abs, ticks), default=0)
    if not 0 < most < 0.01:
        return [format_number(value) for value in ticks]
    exponent = math.floor(math.log10(most) + 1e-9)
    return [f"{value / 10.0**exponent:.3g}e{MINUS}{-exponent}" if value else "0" for value in ticks]
