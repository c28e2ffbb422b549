"""Named arrays to and from a folder: Orbax writes them, TensorStore reads them.

Orbax knows how several processes write one checkpoint while training goes on, so it writes. What it lays
down is its documented format: each array a Zarr array, under its name, in one OCDBT database. That is
read here without Orbax, because a read that fails is the case to be good at: which leaf it was is known,
no process waits for another one, and no reader is left running.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as orbax
import tensorstore
from etils import epath

from mmjax.core.arrays import Array, Shaped
from mmjax.core.errors import CheckpointError

TEMPORARY_MARK = ".orbax-checkpoint-tmp"
_STATE = "state"
_READ_AHEAD_BYTES = 2**30

# What Orbax logs repeats what its exceptions say, and those reach the user as one line of ours.
logging.getLogger("absl").addFilter(lambda record: "/orbax/" not in record.pathname.replace("\\", "/"))


def start_write(path: epath.Path, leaves: Mapping[str, Shaped[Array, "..."]]) -> Callable[[], None]:
    """Copies the arrays to the host, starts writing them, and returns the function that waits for the end.

    When this returns the arrays may be donated. `path` appears in one move when everything is written.
    """
    leaves = {
        name: leaf for name, leaf in leaves.items() if leaf.size
    }  # Orbax refuses empty arrays; their shape says all
    context = orbax.Context()
    context.array.saving.use_compression = False  # trained weights shrink by 8%, and take three times as long
    context.array.saving.use_replica_parallel = False  # it would cut replicas up, which compiles a program a shape
    with context:
        return orbax.save_async(path, leaves, checkpointable_name=_STATE).result


def read_arrays(path: epath.Path, like: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Shaped[Array, "..."]]:
    """Reads the leaves named in `like`, and no others, into the shardings that `like` gives.

    Each process reads what its own devices hold, once where several of them hold the same.

    Raises:
      CheckpointError: a leaf cannot be read; it is named.
    """
    arrays = {
        name: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding)
        for name, leaf in like.items()
        if not leaf.size
    }
    for names in _batches(like):
        stored = open_leaves(path, {name: like[name] for name in names})
        started = {name: _start_read(stored[name], like[name].sharding) for name in names}
        for name in names:
            shards = {index: _result(name, read) for index, read in started.pop(name).items()}
            arrays[name] = _assemble(like[name], shards)
    return arrays


def read_host(path: epath.Path, like: Mapping[str, Any]) -> Iterator[tuple[str, Shaped[np.ndarray, "..."]]]:
    """Reads leaves into host memory, one after the other in the order of `like` (empty ones first).

    Raises:
      CheckpointError: a leaf cannot be read; it is named.
    """
    yield from ((name, np.zeros(leaf.shape, leaf.dtype)) for name, leaf in like.items() if not leaf.size)
    for names in _batches(like):
        stored = open_leaves(path, {name: like[name] for name in names})
        started = {name: stored[name].read() for name in names}
        for name in names:
            yield name, _result(name, started.pop(name))


def open_leaves(path: epath.Path, like: Mapping[str, Any]) -> dict[str, tensorstore.TensorStore]:
    """Opens leaves to be read, whole or in slices.

    Raises:
      CheckpointError: a leaf cannot be opened, or is not of the shape and dtype that `like` says; it is named.
    """
    # One context with room for the database's index, so that it is read once for all leaves.
    context = tensorstore.Context({"cache_pool#index": {"total_bytes_limit": 100_000_000}})
    opening = {name: tensorstore.open(array_spec(path, name), context=context, open=True, read=True) for name in like}
    stored = {name: _result(name, store) for name, store in opening.items()}
    for name, store in stored.items():
        if store.shape != like[name].shape or store.dtype.numpy_dtype != like[name].dtype:
            raise CheckpointError(f"{name} is {store.dtype.name}{list(store.shape)} on disk, not as it was saved")
    return stored


def array_spec(path: epath.Path, name: str) -> dict[str, Any]:
    """Where TensorStore finds a leaf of a step."""
    folder = f"{path / _STATE}/"
    base = folder if "://" in folder else {"driver": "file", "path": folder}
    kvstore = {"driver": "ocdbt", "base": base, "path": f"{name}/", "cache_pool": "cache_pool#index"}
    return {"driver": "zarr3", "kvstore": kvstore, "fill_missing_data_reads": False}


def _start_read(stored, sharding):
    indices = {
        _bounds(index, stored.shape) for index in sharding.addressable_devices_indices_map(stored.shape).values()
    }
    return {index: stored[tuple(slice(*bounds) for bounds in index)].read() for index in indices}


def _assemble(like, shards):
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: shards[_bounds(index, like.shape)])


def _bounds(index, shape):
    """Slices as a tuple of (start, stop), which can be a key."""
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def _result(name, future):
    try:
        return future.result()
    except ValueError as error:  # of TensorStore; its long specification of what was read helps nobody here
        text = " ".join(str(error).split(" [tensorstore_spec=")[0].split())
        raise CheckpointError(f"{name} cannot be read: {text}") from None


def _batches(like) -> Iterable[list[str]]:
    """Names of the leaves that have bytes, in order, in batches that fit in host memory beside everything else."""
    batch, size = [], 0
    for name, leaf in like.items():
        leaf_bytes = leaf.size * leaf.dtype.itemsize
        if not leaf_bytes:
            continue
        if batch and size + leaf_bytes > _READ_AHEAD_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += leaf_bytes
    if batch:
        yield batch
