"""Plans as text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.core.quantities import quantity, seconds_text
from mmjax.planning.moves import Move
from mmjax.planning.plan import ProgramPlan
from mmjax.planning.search import Tried, one_line


def plan_text(name: str, plan: ProgramPlan) -> str:
    """One program: does it fit, of what is its memory made, what binds it."""
    verdict = (
        f"fits, {100 * plan.spare:.0f}% to spare" if plan.fits else f"DOES NOT FIT, {_bytes(-_left(plan))} too much"
    )
    lines = [
        f"{name}: {_of_hbm(plan)} of HBM a device: {verdict}",
        "  memory      " + ", ".join(f"{part} {_bytes(size)}" for part, size in plan.parts.items()),
        f"  computes    {_flops(plan.model_flops)} of the model, {_flops(plan.hardware_flops)} with what is done again",
    ]
    if plan.fits:
        lines += _bounds_lines(plan)
    return "\n".join([*lines, *(f"  warning     {warning}" for warning in plan.warnings)])


def _bytes(size: float) -> str:
    return quantity(size, "B")


def _flops(count: float) -> str:
    return quantity(count, "FLOP")


def _left(plan: ProgramPlan) -> int:
    return plan.available_bytes - plan.hbm_bytes


def _of_hbm(plan: ProgramPlan) -> str:
    return f"{_bytes(plan.hbm_bytes)} of {_bytes(plan.available_bytes)}"


def _bounds_lines(plan: ProgramPlan) -> list[str]:
    seconds = ", ".join(f"{name} {seconds_text(value)}" for name, value in plan.bound_seconds.items() if value)
    total = sum(told["bytes"] for by_axes in plan.collectives.values() for told in by_axes.values())
    sent = [
        f"{kind} over {axes}: {_bytes(told['bytes'])} ({told['count']})"
        for kind, by_axes in plan.collectives.items()
        for axes, told in by_axes.items()
        if told["bytes"] > 1e-3 * total
    ]
    return [
        f"  HBM traffic {_bytes(plan.hbm_traffic_bytes)}",
        "  sent        " + ("; ".join(sent) or "nothing"),
        f"  at least    {seconds}: bound by {plan.bound}",
        f"  roofline    {seconds_text(plan.roofline_seconds)} a step, MFU {100 * plan.roofline_mfu:.1f}%",
        f"  estimate    {seconds_text(plan.estimated_seconds)} a step, not measured ({plan.estimated_by})",
    ]


def moves_text(name: str, tried: Sequence[Move]) -> str:
    """What was tried for a program that does not fit."""
    lines = [f"{name}: what would make it fit"]
    for move in tried:
        lines.append(f"  {'fits' if move.plan.fits else 'no'}: {move.kind}: {move.settings} ({_of_hbm(move.plan)})")
    if not any(move.plan.fits for move in tried):
        lines.append("  none of them; take more chips, a smaller model, or shorter rows")
    return "\n".join(lines)


def search_text(tried: Sequence[Tried]) -> str:
    """The combinations that were compiled, the best first."""
    lines = ["searched, the fastest that fits first:"]
    for one in tried:
        if one.plan.fits:
            told = f"{seconds_text(one.seconds_per_row)} a row, MFU {100 * one.plan.roofline_mfu:.1f}% at most, "
            told += f"bound by {one.plan.bound}, {_of_hbm(one.plan)}"
        else:
            told = f"does not fit, {_of_hbm(one.plan)}"
        lines.append(f"  {one_line(one.combination)}: {told}")
    return "\n".join(lines)


def cost_text(cost: Mapping[str, Any]) -> str:
    """Chip-hours, and rows or examples a day."""
    padding, examples = cost["padding_share"], cost["examples_per_day"]
    told = "not known: " + cost["padding_reason"] if padding is None else f"{100 * padding:.1f}% of tokens"
    of_them = "" if examples is None else f" ({examples:,.0f} examples)"
    return "\n".join(
        [
            f"at {100 * cost['share']:.0f}% of the roofline: {seconds_text(cost['step_seconds'])} a step, "
            f"{cost['rows_per_day']:,.0f} rows{of_them} a day, {cost['chip_hours']:,.0f} chip-hours for "
            f"{cost['steps']:,} steps",
            f"padding     {told}",
        ]
    )
