"""Figures of the steps between two log lines: losses by data set, throughput, waiting."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Int
from mmjax.core.batch import Batch
from mmjax.training.step import StepMetrics


class Filling(NamedTuple):
    """How many tokens and images of a global batch are not padding; counted on the devices, which hold all of it."""

    tokens: Int[Array, ""]
    images: Int[Array, ""]


def count_filling(batch: Batch) -> Filling:
    """The filling of a batch."""
    count = [jnp.count_nonzero(leaf).astype(jnp.int32) for leaf in (batch.segment_ids, batch.image_mask)]
    return Filling(*count)


class Window:
    """Adds up steps until `reset`. Time spent in `paused` (evaluating, saving) is not the steps'."""

    def __init__(self, names: Sequence[str], batch: Batch, flops: float, peak: float | None):
        """`batch`: of one step, by its shapes; `flops`: of one step on all devices; `peak`: FLOP/s of all devices.

        `peak` is None where it is not known.
        """
        self._names, self._flops, self._peak = names, flops, peak
        self._rows, self._tokens = batch.tokens.shape[0], math.prod(batch.tokens.shape)
        self.last: dict[str, float] = {}
        self.reset()

    def reset(self) -> None:
        """Starts the next window."""
        self._began = time.monotonic()
        self._waited = self._paused = 0.0
        self._steps = self._useful = self._images = 0
        self._weight, self._nll = np.zeros((2, len(self._names)))
        self._scores: dict[str, np.ndarray] = {}

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the block as waiting for data."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the block out of the time of the steps."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def finish(self, metrics: StepMetrics, filling: Filling) -> None:
        """Adds the figures of a step that has ended."""
        self._steps += 1
        self._useful += int(filling.tokens)
        self._images += int(filling.images)
        tally = metrics.tally
        self._weight, self._nll = self._weight + tally.weight, self._nll + tally.nll
        self._scores = {name: self._scores.get(name, 0.0) + value for name, value in tally.scores.items()}

    def summary(self, metrics: StepMetrics, blank: tuple[Any, Any] | None) -> dict[str, Any]:
        """The line for metrics.jsonl: losses and norms are the last step's, those by data set the window's means.

        blank: loss and tally of the last step without its pictures, where that says something.
        """
        seconds = max(time.monotonic() - self._began - self._paused, 1e-9)
        values: dict[str, Any] = {
            "loss": float(metrics.loss),
            "gradient_norm": float(metrics.gradient_norm),
            "update_norm": float(metrics.update_norm),
            "parameter_norm": float(metrics.parameter_norm),
            "skipped_steps": int(metrics.skipped),
            "seconds": seconds,
            "seconds_per_step": seconds / self._steps,
            "examples_per_second": self._rows * self._steps / seconds,
            "tokens_per_second": self._tokens * self._steps / seconds,
            "useful_tokens_per_second": self._useful / seconds,
            "useful_token_share": self._useful / (self._tokens * self._steps),
            "images_per_second": self._images / seconds,
            "flops_per_second": self._flops * self._steps / seconds,
            "mfu": self._flops * self._steps / seconds / self._peak if self._peak else None,
            "data_wait_share": self._waited / seconds,
        }
        for index, name in enumerate(self._names):
            weight = self._weight[index]
            if weight > 0:
                values[f"loss/{name}"] = self._nll[index] / weight
                values |= {f"{score}/{name}": sums[index] / weight for score, sums in self._scores.items()}
        if blank is not None:
            values |= self._gaps(metrics, *blank)
        self.last = {name: values[name] for name in ("loss", "grounding_gap") if name in values}
        return values

    def _gaps(self, metrics, loss, tally) -> dict[str, float]:
        """How much worse the last step is without its pictures, in all and by data set."""
        gaps = {"grounding_gap": float(loss) - float(metrics.loss)}
        for index, name in enumerate(self._names):
            if metrics.tally.weight[index] > 0:
                gap = tally.nll[index] - metrics.tally.nll[index]
                gaps[f"grounding_gap/{name}"] = float(gap / metrics.tally.weight[index])
        return gaps

    def line(self, step: int, total: int, values: dict[str, Any]) -> str:
        """One line for a log that is not a terminal."""
        left = (total - step) * values["seconds_per_step"]
        parts = [f"step {step}/{total}", f"loss {values['loss']:.4f}"]
        parts += [f"{name} {values[f'loss/{name}']:.3f}" for name in self._names if f"loss/{name}" in values]
        parts += [f"gap {values['grounding_gap']:.3f}"] if "grounding_gap" in values else []
        parts += [
            f"{values['useful_tokens_per_second']:,.0f} useful tokens/s",
            f"{values['images_per_second']:,.0f} images/s",
            "MFU not known" if values["mfu"] is None else f"MFU {values['mfu']:.1%}",
            f"wait {values['data_wait_share']:.1%}",
            f"ETA {int(left // 60)}:{int(left % 60):02d}",
        ]
        return "  ".join(parts)
