"""The audit: every parameter with its spec, its bytes on a device, and an error for large ones that lie whole."""

import dataclasses
import math

import pytest

from mmjax.core.errors import ConfigError
from mmjax.parallel.mesh import MeshConfig
from mmjax.planning import audit as audit_module
from mmjax.planning.audit import audit_run, audit_text
from tests.planning.tiny_runs import tiny_run


def run_on(**mesh):
    run = tiny_run("flamingo", frozen=("vision/.*",))
    return dataclasses.replace(run, mesh=MeshConfig(**mesh))


def test_bytes_follow_the_spec():
    sizes = {"data": 2, "fsdp": 4, "tensor": 2}
    rows = audit_run(run_on(**sizes), 16)
    assert [row.path for row in rows] == sorted(row.path for row in rows)
    assert {row.path.split("/")[0] for row in rows} == {"decoder", "media_projection", "resampler", "vision"}
    for row in rows:
        axes = [axis for part in row.spec if part for axis in ((part,) if isinstance(part, str) else part)]
        assert len(axes) == len(set(axes))
        assert row.bytes == 4 * math.prod(row.shape)
        assert row.bytes_per_device == row.bytes // math.prod(sizes[axis] for axis in axes)
        assert "data" not in axes, "the hybrid strategy keeps copies along the data axis"
    assert sum(row.bytes_per_device for row in rows) < sum(row.bytes for row in rows) / 4
    full = audit_run(run_on(**sizes, strategy="full"), 16)
    assert sum(row.bytes_per_device for row in full) < sum(row.bytes_per_device for row in rows)


def test_the_text_lists_every_parameter_and_the_sums():
    run = run_on(data=1, fsdp=-1)
    text = audit_text(run, 4)
    rows = audit_run(run, 4)
    lines = text.splitlines()
    assert lines[0] == (
        "mesh {'slice': 1, 'data': 1, 'fsdp': 4, 'tensor': 1, 'sequence': 1}, strategy hybrid, 4 devices"
    )
    listed = lines[2 : 2 + len(rows)]
    for row, line in zip(rows, listed, strict=True):
        assert line.startswith(f"{row.path}  {list(row.shape)}  (") and f"{row.bytes_per_device:,} bytes" in line
        assert line.endswith("frozen") == row.path.startswith("vision/")
    each, whole = sum(row.bytes_per_device for row in rows), sum(row.bytes for row in rows)
    assert lines[-1] == (f"{whole:,} bytes of parameters, {each:,} on each device: {each * 4 / whole:.3f} copies")


def test_a_large_parameter_that_lies_whole_is_refused(monkeypatch):
    run = run_on(fsdp=7, data=1)
    assert "copies" in audit_text(run, 7)
    monkeypatch.setattr(audit_module, "_LARGE", 2**12)
    with pytest.raises(ConfigError, match=r"decoder/embedding.* lie whole on every device.*change the mesh sizes"):
        audit_text(run, 7)
    assert "copies" in audit_text(run_on(data=7), 7), "data parallelism alone splits no parameter"
