"""What a data set offers to the stream, and what is known of the lengths of its examples."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from mmjax.core.arrays import Int
from mmjax.core.example import Example


class ExampleSource(Protocol):
    """A data set with random access. `load` is a pure function of the source's seed, the index and the epoch.

    The text of an example and the number of its media depend on the index alone, so that its length is known
    before it is read; what pictures look like may depend on the epoch too. Media are decoded by `Media.load`, not by
    `load`. Either may raise DataError for a record that cannot be used.
    """

    name: str

    def __len__(self) -> int: ...

    def load(self, index: int, epoch: int) -> Example: ...


@runtime_checkable
class StoredSource(Protocol):
    """A source over files, whose lengths are kept in the folder `cache` until its `fingerprint` changes.

    It can be pickled, and measured by another process.
    """

    name: str
    cache: Path

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def load(self, index: int, epoch: int) -> Example: ...


class Lengths(NamedTuple):
    """Tokens (with first and last) and media of each example of a source.

    Examples that no row may hold have a negative number of tokens, which says why (`mmjax.data.lengths`).
    """

    tokens: Int[np.ndarray, " S"]
    images: Int[np.ndarray, " S"]
