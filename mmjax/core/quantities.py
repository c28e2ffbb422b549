"""Quantities for people: three digits and a unit."""

from __future__ import annotations

_LARGE = ("", "k", "M", "G", "T", "P", "E")
_SMALL = ("s", "ms", "µs", "ns")


def quantity(value: float, unit: str) -> str:
    """`3.46 GB`, `512 B`, `0 FLOP`: decimal prefixes."""
    step, size = 0, abs(value)
    while size >= 999.5 and step < len(_LARGE) - 1:
        size, step = size / 1000, step + 1
    return f"{'-' if value < 0 else ''}{_three_digits(size)} {_LARGE[step]}{unit}"


def seconds_text(seconds: float) -> str:
    """`1.26 s`, `62.4 ms`, `4.78 µs`."""
    step, size = 0, seconds
    while 0 < size < 0.9995 and step < len(_SMALL) - 1:
        size, step = size * 1000, step + 1
    return f"{size:,.0f} s" if size >= 999.5 and not step else f"{_three_digits(size)} {_SMALL[step]}"


def _three_digits(size: float) -> str:
    if size == round(size):
        return f"{size:.0f}"
    return f"{size:.{0 if size >= 99.95 else 1 if size >= 9.995 else 2}f}"
