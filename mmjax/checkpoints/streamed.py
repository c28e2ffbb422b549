"""A step that is written piece by piece, and read a slice at a time: for weights that need not fit in memory.

The same layout as that of other steps (see `store`): a Zarr array a leaf in one OCDBT database, and the manifest last.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Self

import jax
import numpy as np
import tensorstore
from etils import epath

from mmjax.checkpoints import folder, manifest, store
from mmjax.checkpoints.checksum import HostChecksum
from mmjax.checkpoints.manifest import LeafRecord, Manifest
from mmjax.core.arrays import Shaped
from mmjax.core.errors import CheckpointError

_CHUNK_BYTES = 2**26
_CACHE_BYTES = 100_000_000


def write_streamed(
    directory: epath.Path,
    step: int,
    leaves: Mapping[str, jax.ShapeDtypeStruct],
    pieces: Iterable[tuple[str, int | None, Shaped[np.ndarray, "..."]]],
    config: Mapping[str, Any],
) -> None:
    """Writes a step whose arrays come as (name, index along the first axis or None, array); one is held at a time.

    Raises:
      CheckpointError: it cannot be written, or pieces are missing.
      FileExistsError: the directory has this step already.
    """
    path = folder.step_folder(directory, step)
    path.mkdir(parents=True)
    sums = {name: HostChecksum() for name in leaves}
    context, opened = _context(), {}
    for name, index, piece in pieces:
        leaf = leaves[name]
        where = () if index is None else (index,)
        if name not in opened:
            opened[name] = _create(path, name, leaf, len(where), context)
        piece = np.asarray(piece, leaf.dtype)
        try:
            opened[name][where].write(piece).result()
        except ValueError as error:
            raise CheckpointError(f"{name} cannot be written to {path}: {' '.join(str(error).split())[:300]}") from None
        sums[name].add(piece, (index or 0) * piece.size)
    short = [name for name, leaf in leaves.items() if sums[name].elements != math.prod(leaf.shape)]
    if short:
        raise CheckpointError(f"these leaves were not given whole: {', '.join(short)}")
    Manifest(
        step=step,
        leaves={
            name: LeafRecord(tuple(leaf.shape), np.dtype(leaf.dtype).name, sums[name].digits())
            for name, leaf in leaves.items()
        },
        files=manifest.record_files(path),
        position={},
        config=manifest.clean_config(config),
        metrics={},
        versions=manifest.current_versions(),
    ).write(path)


class StoredLeaf:
    """A leaf of a step on disk, of which slices along the first axis can be read one by one."""

    def __init__(self, opened: tensorstore.TensorStore):
        self._opened = opened
        self.shape = tuple(opened.shape)
        self.dtype = opened.dtype.numpy_dtype

    def __getitem__(self, index: int) -> Shaped[np.ndarray, "..."]:
        return self._opened[index].read().result()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Shaped[np.ndarray, "..."]:
        return np.asarray(self._opened.read().result(), dtype)


class StoredLeaves(dict[str, StoredLeaf]):
    """Leaves of a step by name, to be read when they are used."""

    @classmethod
    def open(cls, path: epath.Path, prefix: str) -> Self:
        """Opens the leaves of a step's folder that are below `prefix`, by the rest of their names.

        Raises:
          CheckpointError: the step is damaged or unfinished.
        """
        record = manifest.read_manifest(path)
        manifest.check_files(path, record.files)
        names = [name for name in record.leaves if name.startswith(prefix)]
        like = {
            name: jax.ShapeDtypeStruct(record.leaves[name].shape, np.dtype(record.leaves[name].dtype)) for name in names
        }
        return cls(
            (name.removeprefix(prefix), StoredLeaf(leaf)) for name, leaf in store.open_leaves(path, like).items()
        )


def _context() -> tensorstore.Context:
    return tensorstore.Context({"cache_pool#index": {"total_bytes_limit": _CACHE_BYTES}})


def _create(path, name, leaf, stacked, context):
    """An array whose chunks never cross the pieces that it is written in."""
    chunk = [1] * stacked + list(leaf.shape[stacked:])
    while math.prod(chunk) * np.dtype(leaf.dtype).itemsize > _CHUNK_BYTES:
        widest = max(range(len(chunk)), key=chunk.__getitem__)
        chunk[widest] = -(-chunk[widest] // 2)
    spec = store.array_spec(path, name) | {
        "metadata": {
            "shape": list(leaf.shape),
            "data_type": np.dtype(leaf.dtype).name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        },
        # Zeros are data: a chunk that is not there is damage, and is told when it is read.
        "store_data_equal_to_fill_value": True,
    }
    del spec["fill_missing_data_reads"]
    return tensorstore.open(spec, context=context, create=True, open=False, write=True, read=False).result()
