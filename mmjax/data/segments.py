"""The segments of a run's stream: what it read, also where its data were changed on the way.

A run keeps a list of them in `stream.json`. As long as the configuration says the same, it has one. Where a run is
resumed with other weights, data sets or rows, and the configuration says that this is meant (`data.from_step`), another
segment begins at that step, in which every data set goes on where it stood. So what a run saw can be listed again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.core.config import build, to_tree
from mmjax.core.errors import InputError
from mmjax.data.config import DataConfig
from mmjax.data.plan import ItemPlan, Start, carried
from mmjax.data.stream import BatchStream
from mmjax.text.tokenizer import Tokenizer

NAME = "stream.json"
_ROWS = "rows/"


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of steps that one configuration describes.

    begun: its first step, and how many rows of each data set came before.
    fingerprint: of the stream. items: how the rows of each data set were planned.
    """

    begun: Start
    fingerprint: str
    seed: int
    batch_size: int
    data: Mapping[str, Any]
    items: Mapping[str, ItemPlan]

    def stream(self, tokenizer: Tokenizer, **settings: Any) -> BatchStream:
        """The stream of the segment once more; `settings` as BatchStream takes them.

        Raises:
          InputError: the files or the tokenizer are no more what they were.
        """
        stream = BatchStream(
            build(DataConfig, self.data, "data"),
            tokenizer,
            batch_size=self.batch_size,
            seed=self.seed,
            begun=self.begun,
            **settings,
        )
        if stream.fingerprint() != self.fingerprint:
            raise InputError(
                f"the segment from step {self.begun.step} cannot be read again: its files, the tokenizer or the "
                "decoder of pictures are others than they were"
            )
        return stream


def read_segments(workdir: Path) -> list[Segment]:
    """The segments that a run has kept; none where there is no list.

    Raises:
      InputError: the list is damaged.
    """
    path = workdir / NAME
    try:
        return [build(Segment, entry, "segment") for entry in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}): put back a copy of it, or remove it") from None


def split_steps(segments: Sequence[Segment], steps: range) -> list[tuple[Segment, range]]:
    """The segments that steps belong to, each with its part of them; the last one goes on."""
    stops = [*(segment.begun.step for segment in segments[1:]), steps.stop]
    parts = [
        (segment, range(max(steps.start, segment.begun.step), min(steps.stop, stop)))
        for segment, stop in zip(segments, stops, strict=True)
    ]
    return [(segment, part) for segment, part in parts if part]


def segments_text(segments: Sequence[Segment]) -> str:
    """What is kept of them."""
    return json.dumps(to_tree(list(segments)), indent=1) + "\n"


def position_of(stream: BatchStream, step: int) -> dict[str, int]:
    """Where a stream is after `step` steps: what was consumed, not what was read ahead."""
    rows = {_ROWS + name: count for name, count in stream.plan.before(step).items()}
    return {"step": step, "fingerprint": _number(stream.fingerprint()), **rows}


def go_on(
    workdir: Path,
    make: Callable[[Start], BatchStream],
    *,
    step: int,
    position: Mapping[str, int] | None,
    from_step: int,
) -> tuple[BatchStream, list[Segment]]:
    """The stream of a run from `step` on, and its segments up to there.

    Args:
      workdir: where the run keeps its segments.
      make: the stream that the configuration describes, begun where it is told.
      position: what was saved at `step`; None for a run that starts.
      from_step: the step from which the configuration says that it holds.

    Raises:
      InputError: the configuration is not that of the last segment, and does not say that this is meant.
    """
    kept = [] if position is None else [segment for segment in read_segments(workdir) if segment.begun.step <= step]
    stream = make(kept[-1].begun if kept else Start())
    segment = _segment(stream)
    expected = kept[-1].fingerprint if kept else None
    if position is None or segment.fingerprint == expected:
        return stream, kept or [segment]
    if not kept and position["fingerprint"] == _number(segment.fingerprint):
        return stream, [segment]
    if from_step != step:
        raise InputError(
            f"the run in {workdir} read other data than this configuration describes (seed, batch_size or config.data "
            f"changed): give the old settings, or another --workdir with init_from, or set data.from_step to {step} to "
            "go on with these data from there"
        )
    kept = [segment for segment in kept if segment.begun.step < step]
    rows = {name.removeprefix(_ROWS): count for name, count in position.items() if name.startswith(_ROWS)}
    stream = make(carried(step, kept[-1].items if kept else {}, rows, stream.plan))
    return stream, [*kept, _segment(stream)]


def _segment(stream: BatchStream) -> Segment:
    return Segment(
        stream.begun,
        stream.fingerprint(),
        stream.seed,
        stream.batch_size,
        to_tree(stream.config),
        stream.plan.item_plans(),
    )


def _number(fingerprint: str) -> int:
    return int(fingerprint[:15], 16)
