"""What the rows of a run hold, from the data themselves: padding, and examples."""

from __future__ import annotations

import dataclasses

from mmjax.core.errors import MmjaxError
from mmjax.data.stream import BatchStream
from mmjax.text.tokenizer import make_tokenizer
from mmjax.training.run import RunConfig

_ROWS = 2000


@dataclasses.dataclass(frozen=True)
class Filling:
    """Of a run's first rows: the share of tokens that are padding, and the mean number of examples in a row.

    Both are None, for the `reason`, where the data or the tokenizer are not here.
    """

    padding_share: float | None
    examples_per_row: float | None
    reason: str = ""


def filling(run: RunConfig) -> Filling:
    """Of the first 2,000 rows or so, as they are planned; no picture is read."""
    try:
        tokenizer = make_tokenizer(run.tokenizer)
        data = dataclasses.replace(run.data, workers=0)
        stream = BatchStream(data, tokenizer, batch_size=min(run.batch_size, _ROWS), seed=run.seed)
        steps = max(1, _ROWS // run.batch_size)
        rows = [ids for step in range(steps) for ids in stream.row_ids(step)]
        examples = sum(ids.count("+") + 1 for ids in rows if ids)
        return Filling(stream.padding_share(steps), examples / len(rows))
    except (MmjaxError, OSError) as error:
        return Filling(None, None, str(error))
