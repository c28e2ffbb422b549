"""Gathers of whole stacks of layers: those along one axis of several are found too."""

import importlib.util

import pytest
from jax.sharding import PartitionSpec as P

from mmjax.planning.compiler import compile_program
from mmjax.planning.gathers import stacked_pieces, whole_gathers
from mmjax.planning.hlo import program_facts

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler: pip install mmjax[plan]"
)
AXES = {"fsdp": 4, "tensor": 4}
LAYERS, WIDTH = 6, 1024


def test_pieces_are_those_of_gathers_along_some_axes():
    shape, axes = (6, 8, 12), ("layers", "embed", "mlp")
    whole = 6 * 8 * 12
    assert stacked_pieces(shape, axes, P(None, "fsdp", "tensor"), AXES) == (6, [whole // 4, whole])
    assert stacked_pieces(shape, axes, P(None, ("fsdp", "tensor")), AXES) == (6, [whole // 4, whole])
    assert stacked_pieces(shape, axes, P(None, "fsdp"), AXES) == (6, [whole])
    assert stacked_pieces(shape, axes, P(), AXES) is None
    assert stacked_pieces((6, 8), ("layers", "embed"), P(None, "fsdp"), AXES) is None
    assert stacked_pieces((1, 8, 12), axes, P(None, "fsdp"), AXES) is None


@needs_libtpu
@pytest.mark.parametrize("along", [("fsdp",), ("fsdp", "tensor"), ()])
def test_gathers_before_the_loop_are_found(along):
    arguments = {"topology": "v5e:4x4", "axes": AXES, "layers": LAYERS, "width": WIDTH, "along": along}
    compiled = compile_program("tests.planning.programs:gathers_stacks", arguments)
    found = whole_gathers(program_facts(compiled.hlo, AXES), [compiled.facts["pieces"]])
    size = LAYERS * WIDTH * WIDTH * 2
    told = {one.partition(":")[0] for one in found}
    expected = {(): set(), ("fsdp",): {f"{size // 4} bytes along fsdp"}}
    assert told == expected[along] if along in expected else f"{size} bytes along" in " ".join(told), found
