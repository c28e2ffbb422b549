"""Certificates of what is kept beside this file, as its reference is no plain package; and sharded ones."""

from pathlib import Path

import pytest

from mmjax.parallel.mesh import MeshConfig, make_mesh
from tests.parity.certificates import check
from third_party.oracles import make

KEPT = Path(__file__).parent / "open_flamingo"
SHARDED = [("gemma2", 0), ("gpt_neox", 1), ("llava", 0), ("clip", 0), ("idefics", 0), ("mllama", 0), ("qwen2_5_vl", 0)]


@pytest.mark.parametrize("name", sorted(path.name for path in KEPT.iterdir()))
def test_open_flamingo(name, quick_programs):
    check(KEPT / name, gradients=True, roundtrip=True)


@pytest.mark.parametrize("name, variant", SHARDED)
def test_sharded(name, variant, tmp_path, quick_programs):
    """The same with parameters read straight onto eight devices."""
    check(make(name, tmp_path, variant=variant), mesh=make_mesh(MeshConfig(fsdp=2, tensor=2, data=2)))
