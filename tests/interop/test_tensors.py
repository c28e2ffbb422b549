"""Safetensors folders: read as the reference library writes, written as it reads, and every way to be broken."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from mmjax.core.errors import CheckpointError, InputError
from mmjax.interop.tensors import INDEX, SINGLE, open_folder, write_folder

FLOAT = np.dtype(np.float32)


def some_tensors():
    random = np.random.default_rng(0)
    return {
        "a.weight": random.normal(size=(3, 5)).astype(np.float32),
        "b.weight": random.normal(size=(7,)).astype(np.float16),
        "c.weight": random.normal(size=(2, 2, 2)).astype(ml_dtypes.bfloat16),
        "scalar": np.array(3.0, np.float32),
        "empty": np.zeros((0, 4), np.float32),
    }


def test_reads_what_the_library_writes(tmp_path):
    tensors = some_tensors()
    save_file(tensors, tmp_path / SINGLE, metadata={"format": "pt"})
    found = open_folder(tmp_path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].shape == tensor.shape and found[name].dtype == tensor.dtype
        assert np.array_equal(found[name].read(), tensor)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("limit", [10**9, 40])
def test_the_library_reads_what_is_written(tmp_path, dtype, limit):
    tensors = {f"t{i}": np.random.default_rng(i).normal(size=(i + 1, 4)).astype(dtype) for i in range(5)}
    asked = []

    def contents(name):
        asked.append(name)
        return tensors[name]

    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    write_folder(tmp_path, shapes, dict.fromkeys(shapes, np.dtype(dtype)), contents, limit)
    assert asked == list(tensors)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert (len(files) > 1) == (limit == 40)
    read = {}
    for file in files:
        read |= load_file(file)
        with safe_open(file, "np") as opened:
            assert opened.metadata() == {"format": "pt"}
        assert int.from_bytes(file.read_bytes()[:8], "little") % 8 == 0
    assert all(np.array_equal(read[name], tensor) and read[name].dtype == dtype for name, tensor in tensors.items())
    ours = open_folder(tmp_path)
    assert all(np.array_equal(ours[name].read(), tensor) for name, tensor in tensors.items())
    if limit == 40:
        index = json.loads((tmp_path / INDEX).read_text())
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
        assert {(tmp_path / name).name for name in index["weight_map"].values()} == {file.name for file in files}
    assert not list(tmp_path.glob("*.partial"))


def sharded(folder):
    tensors = {f"t{i}": np.ones((2, 4), np.float32) for i in range(3)}
    write_folder(folder, dict.fromkeys(tensors, (2, 4)), dict.fromkeys(tensors, FLOAT), tensors.__getitem__, 40)
    return sorted(folder.glob("*.safetensors"))


def test_broken_folders(tmp_path):
    """One error each, which names the file and says what to do."""
    with pytest.raises(InputError, match="is not a folder"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds neither"):
        open_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02}")
    with pytest.raises(InputError, match=r"pytorch_model.bin.*can run any code.*save_pretrained"):
        open_folder(tmp_path)
    files = sharded(tmp_path)
    files[1].rename(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=f"lacks 1 of its 3 shards: {files[1].name}"):
        open_folder(tmp_path)
    (tmp_path / "gone").rename(files[1])
    index = json.loads((tmp_path / INDEX).read_text())
    index["weight_map"]["t9"] = files[0].name
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="no shard holds: t9"):
        open_folder(tmp_path)
    (tmp_path / INDEX).write_text("{")
    with pytest.raises(CheckpointError, match="is not an index"):
        open_folder(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "cut short"),
        (lambda data: data + b"x", "bytes where its header says"),
        (lambda data: data[:20], "cut short or not"),
        (lambda data: b"", "cut short or not"),
        (lambda data: b"\xff" * 8 + data[8:], "cut short or not"),
        (lambda data: data.replace(b'"F32"', b'"F33"'), "as F33, which is not supported; convert it"),
        (lambda data: data.replace(b"[2,4]", b"[2,5]"), "broken safetensors header"),
        (lambda data: data[:8] + b"{" * 8 + data[16:], "broken safetensors header"),
    ],
)
def test_broken_files(tmp_path, damage, message):
    write_folder(tmp_path, {"t": (2, 4)}, {"t": FLOAT}, lambda name: np.ones((2, 4), np.float32), 10**9)
    file = tmp_path / SINGLE
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        open_folder(tmp_path)


def test_a_tensor_that_is_not_what_was_announced(tmp_path):
    with pytest.raises(CheckpointError, match="was announced"):
        write_folder(tmp_path, {"t": (2, 4)}, {"t": FLOAT}, lambda name: np.ones((2, 5), np.float32), 10**9)
