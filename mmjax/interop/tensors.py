"""Folders of safetensors: names, shapes and types at once, contents tensor by tensor; one file or shards with an index.

A file is eight bytes (the length of the header, little-endian), a JSON header {name: {dtype, shape, data_offsets}},
and the tensors' bytes: huggingface.co/docs/safetensors. Read and written here without holding more than one tensor.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from mmjax.core.errors import CheckpointError, InputError

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_MAX_HEADER = 100_000_000


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies, and what it is."""

    name: str
    file: Path
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of its contents."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """A view on the file: pages are read when touched, and given back when the view is dropped."""
        if not self.nbytes:
            return np.zeros(self.shape, self.dtype)
        raw = np.memmap(self.file, np.uint8, mode="r", offset=self.start, shape=(self.nbytes,))
        return raw.view(self.dtype).reshape(self.shape)


def open_folder(folder: str | Path) -> dict[str, StoredTensor]:
    """Every tensor of a checkpoint folder by name, in the order of the files.

    Raises:
      InputError: no safetensors here (pickles are refused, with the way out).
      CheckpointError: a shard that the index names is missing, a file is cut short, or a header is broken.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder that holds config.json and *.safetensors")
    if (folder / INDEX).exists():
        return _open_sharded(folder)
    if (folder / SINGLE).exists():
        return open_file(folder / SINGLE)
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise InputError(
            f"{folder} holds only pickled weights ({pickles[0]}), which can run any code when read, so they are "
            "refused; convert them where you trust them: transformers' save_pretrained(folder) writes safetensors; of "
            f"other weights, safetensors.torch.save_file(torch.load({pickles[0]!r}, weights_only=True), {SINGLE!r}), "
            "with a config.json beside (docs/weights.md has it for OpenFlamingo's checkpoint.pt)"
        )
    own = "; it is a checkpoint of mmjax, which `mmjax export` gives back" if (folder / "checkpoints").is_dir() else ""
    raise InputError(f"{folder} holds neither {SINGLE} nor {INDEX}{own}")


def _open_sharded(folder: Path) -> dict[str, StoredTensor]:
    try:
        placed: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / INDEX} is not an index of safetensors: {error!r}") from None
    files = sorted(set(placed.values()))
    if any(Path(name).name != name for name in files):
        raise CheckpointError(f"{folder / INDEX} names files outside of its folder")
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} lacks {len(missing)} of its {len(files)} shards: {', '.join(missing)}")
    tensors: dict[str, StoredTensor] = {}
    for name in files:
        tensors |= open_file(folder / name)
    absent = sorted(set(placed) - set(tensors))
    if absent:
        raise CheckpointError(f"the index of {folder} names tensors that no shard holds: {', '.join(absent[:20])}")
    return tensors


def open_file(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of one safetensors file, as `open_folder`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise CheckpointError(f"{path} is cut short or not a safetensors file; fetch it again")
        header = file.read(length)
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        tensors = {name: _stored(path, 8 + length, name, entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} has a broken safetensors header: {error!r}") from None
    end = max((tensor.start + tensor.nbytes for tensor in tensors.values()), default=8 + length)
    if end != size:
        raise CheckpointError(f"{path} has {size} bytes where its header says {end}; it is cut short, fetch it again")
    return tensors


def _stored(path: Path, data: int, name: str, entry: Mapping) -> StoredTensor:
    if entry["dtype"] not in DTYPES:
        raise CheckpointError(
            f"{path} holds {name} as {entry['dtype']}, which is not supported; convert it to bfloat16 or float32 first"
        )
    start, end = entry["data_offsets"]
    tensor = StoredTensor(name, path, data + start, tuple(entry["shape"]), DTYPES[entry["dtype"]])
    if end - start != tensor.nbytes:
        raise ValueError(f"{name}: {end - start} bytes for shape {tensor.shape}")
    return tensor


def write_folder(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, np.dtype],
    contents: Callable[[str], np.ndarray],
    max_shard_bytes: int,
) -> None:
    """Writes tensors one by one, as one file or as shards of at most `max_shard_bytes` (or one tensor) with an index.

    `contents(name)` gives the tensor when its turn comes.
    """
    shards: list[list[str]] = [[]]
    filled = total = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * dtypes[name].itemsize
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
        total += size
    if len(shards) == 1:
        _write_file(folder / SINGLE, shards[0], shapes, dtypes, contents)
        return
    placed = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_file(folder / file, names, shapes, dtypes, contents)
        placed |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _write_file(path, names, shapes, dtypes, contents) -> None:
    codes = {known: code for code, known in DTYPES.items()}
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in names:
        end = start + math.prod(shapes[name]) * dtypes[name].itemsize
        header[name] = {"dtype": codes[dtypes[name]], "shape": list(shapes[name]), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = np.asarray(contents(name), dtypes[name], order="C")  # (ascontiguousarray makes vectors of scalars)
            if tensor.shape != tuple(shapes[name]):
                raise CheckpointError(f"{name} has shape {tensor.shape} where {shapes[name]} was announced")
            file.write(tensor.reshape(-1).view(np.uint8).data)
    os.replace(partial, path)
