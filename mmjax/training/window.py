"""Figures of the steps between two log lines: losses by data set, throughput, waiting."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mmjax.data.stream import StreamItem
from mmjax.training.step import StepMetrics


class Window:
    """Adds up steps until `reset`. Time spent in `paused` (evaluating, saving) is not the steps'."""

    def __init__(self, names: Sequence[str], flops: float, peak: float | None):
        """`flops`: of one step on all devices; `peak`: FLOP/s of all devices, None where not known."""
        self._names, self._flops, self._peak = names, flops, peak
        self.last: dict[str, float] = {}
        self.reset()

    def reset(self) -> None:
        """Starts the next window."""
        self._began = time.monotonic()
        self._waited = self._paused = 0.0
        self._steps = self._rows = self._tokens = self._useful = self._images = 0
        self._tally = np.zeros((3, len(self._names)))

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

    def start(self, item: StreamItem) -> None:
        """Counts the rows of a step (of this process)."""
        self._rows += item.batch.tokens.shape[0]
        self._tokens += item.batch.tokens.size
        self._useful += int(np.count_nonzero(item.batch.segment_ids))
        self._images += int(np.count_nonzero(item.batch.image_mask))

    def finish(self, metrics: StepMetrics) -> None:
        """Adds the figures of a step that has ended."""
        self._steps += 1
        self._tally += np.stack([metrics.tally.weight, metrics.tally.nll, metrics.tally.correct])

    def summary(self, metrics: StepMetrics, blank: tuple[Any, Any]) -> dict[str, Any]:
        """The line for metrics.jsonl: losses and norms are the last step's, those by data set the window's means."""
        seconds = max(time.monotonic() - self._began - self._paused, 1e-9)
        blank_loss, blank_tally = blank
        values: dict[str, Any] = {
            "loss": float(metrics.loss),
            "gradient_norm": float(metrics.gradient_norm),
            "update_norm": float(metrics.update_norm),
            "parameter_norm": float(metrics.parameter_norm),
            "grounding_gap": float(blank_loss) - float(metrics.loss),
            "skipped_steps": int(metrics.skipped),
            "seconds": seconds,
            "seconds_per_step": seconds / self._steps,
            "examples_per_second": self._rows / seconds,
            "tokens_per_second": self._tokens / seconds,
            "useful_tokens_per_second": self._useful / seconds,
            "useful_token_share": self._useful / self._tokens,
            "images_per_second": self._images / seconds,
            "flops_per_second": self._flops * self._steps / seconds,
            "mfu": self._flops * self._steps / seconds / self._peak if self._peak else None,
            "data_wait_share": self._waited / seconds,
        }
        for index, name in enumerate(self._names):
            weight, nll, correct = self._tally[:, index]
            if weight > 0:
                values[f"loss/{name}"] = nll / weight
                values[f"accuracy/{name}"] = correct / weight
            if metrics.tally.weight[index] > 0:
                gap = blank_tally.nll[index] - metrics.tally.nll[index]
                values[f"grounding_gap/{name}"] = float(gap / metrics.tally.weight[index])
        self.last = {"loss": values["loss"], "grounding_gap": values["grounding_gap"]}
        return values

    def line(self, step: int, total: int, values: dict[str, Any]) -> str:
        """One line for a log that is not a terminal."""
        left = (total - step) * values["seconds_per_step"]
        parts = [f"step {step}/{total}", f"loss {values['loss']:.4f}"]
        parts += [f"{name} {values[f'loss/{name}']:.3f}" for name in self._names if f"loss/{name}" in values]
        parts += [
            f"gap {values['grounding_gap']:.3f}",
            f"{values['useful_tokens_per_second']:,.0f} useful tokens/s",
            f"{values['images_per_second']:,.0f} images/s",
            "MFU not known" if values["mfu"] is None else f"MFU {values['mfu']:.1%}",
            f"wait {values['data_wait_share']:.1%}",
            f"ETA {int(left // 60)}:{int(left % 60):02d}",
        ]
        return "  ".join(parts)
