"""The facts of a run: how far it came, on what, how large its parts are, and what went wrong on the way."""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from mmjax.checkpoints.manifest import Manifest
from mmjax.core.paths import part_of
from mmjax.models.flamingo import PARTS
from mmjax.reporting.curves import values_of
from mmjax.reporting.svg import counted, format_number, percent
from mmjax.reporting.workdir import Run


@dataclasses.dataclass(frozen=True)
class Part:
    """Parameters of a part of the model, and how many of them are trained."""

    name: str
    parameters: int
    trained: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Signal:
    """A sign of the run's health, in a few words; `state` is "good", "bad" or "neutral"."""

    text: str
    state: str


def count_parts(manifest: Manifest | None) -> list[Part]:
    """Parts of the model by the newest checkpoint; its state keeps `params` and `frozen` apart."""
    parts: dict[str, list[int]] = {}
    for name, leaf in manifest.leaves.items() if manifest else ():
        kind, _, path = name.partition("/")
        if kind not in ("params", "frozen"):
            continue
        size = math.prod(leaf.shape)
        counts = parts.setdefault(part_of(path, PARTS), [0, 0, 0])
        counts[0] += size
        counts[1] += size if kind == "params" else 0
        counts[2] += size * jnp.dtype(leaf.dtype).itemsize
    order = list(PARTS)
    ranked = sorted(parts, key=lambda name: order.index(name) if name in order else len(order))
    return [Part(name.replace("_", " "), *parts[name]) for name in ranked]


def signals(run: Run) -> list[Signal]:
    """What to be glad or to worry about, for the top of the page."""
    found = []
    step, total = run.last.get("step"), run.config.get("total_steps")
    if step is not None and total:
        done = step >= total
        text = f"all {total:,} steps done" if done else f"{step:,} of {total:,} steps done"
        found.append(Signal(text, "good" if done else "neutral"))
    counts = {
        "skipped step": run.latest("skipped_steps"),
        "recompilation": run.latest("recompilations"),
        "bad record": len(run.bad_records) if run.metrics else None,
    }
    for noun, count in counts.items():
        if count is not None:
            found.append(Signal(counted(count, noun) if count else f"no {noun}s", "bad" if count else "good"))
    gap = run.latest("grounding_gap")
    if gap is not None:
        found.append(Signal(f"grounding gap {format_number(gap)} nats", "good" if gap > 0.05 else "bad"))
    return found


def facts(run: Run) -> list[tuple[str, str]]:
    """Names and values, in reading order; what is not known is left out."""
    rows = [
        ("Steps", _steps(run)),
        ("Time of the steps", duration(training_seconds(run))),
        ("Examples a second", _number(_median(run, "examples_per_second"))),
        ("Tokens a second", _number(_median(run, "tokens_per_second"))),
        ("of them useful", _share(_median(run, "useful_token_share"))),
        ("Pictures a second", _number(_median(run, "images_per_second"))),
        ("Waiting for data", _share(_median(run, "data_wait_share"))),
        ("FLOPs a second", _number(_median(run, "flops_per_second"))),
        ("MFU", _share(_median(run, "mfu")) or ("not known" if run.metrics else "")),
        ("Skipped steps", _number(run.latest("skipped_steps"))),
        ("Recompilations", _number(run.latest("recompilations"))),
        ("Bad records", _bad_records(run) if run.metrics else ""),
        ("Seed", _number(run.config.get("seed"))),
        ("Rows a step", _number(run.config.get("batch_size"))),
        ("Compute", str(run.config.get("compute_dtype", ""))),
        ("Newest checkpoint", f"step {run.checkpoint.step:,}" if run.checkpoint else ""),
    ]
    return [(name, value) for name, value in rows if value]


def versions(run: Run) -> list[tuple[str, str]]:
    """What ran it, from versions.json or else from the newest checkpoint."""
    found = run.versions or (run.checkpoint.versions if run.checkpoint else {})
    return list(_flat(found))


def training_seconds(run: Run) -> float | None:
    """Time of all logged steps, without compiling, evaluating and saving; each line counts from the one before."""
    seconds = values_of(run.metrics, "seconds")[1]
    return math.fsum(seconds) if seconds else None


def duration(seconds: float | None) -> str:
    """`4 min 12 s`; empty where it is not known."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _median(run: Run, key: str) -> float | None:
    values = values_of(run.metrics, key)[1]
    return statistics.median(values) if values else None


def _steps(run: Run) -> str:
    step, total = run.last.get("step"), run.config.get("total_steps")
    if step is None:
        return ""
    return f"{step:,} of {total:,}" if total else f"{step:,}"


def _bad_records(run: Run) -> str:
    kinds = collections.Counter(str(row.get("kind", "unknown")) for row in run.bad_records)
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common()) or "none"


def _number(value: Any) -> str:
    return "" if value is None else format_number(value)


def _share(value: Any) -> str:
    return "" if value is None else percent(value)


def _flat(values: Mapping[str, Any], prefix: str = ""):
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key} ")
        else:
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)
