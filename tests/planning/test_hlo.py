"""Facts of compiled programs: of real ones whose collectives are known by construction, and of hand-written ones.

The real ones are compiled by libtpu for TPUs that are not there; those of tests/planning/fragments do without it.
"""

import dataclasses
import importlib.util
import itertools
import math
import pathlib

import numpy as np
import pytest

from mmjax.planning import hlo_text
from mmjax.planning.compiler import compile_program
from mmjax.planning.hlo import program_facts

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler: pip install mmjax[plan]"
)
BUILDERS = "tests.planning.programs:"
L, R, D = 5, 64, 512


def explicit_facts(topology, axes, *, slices=1, **options):
    arguments = {"topology": topology, "axes": axes, "layers": L, "rows": R, "width": D, "slices": slices, **options}
    compiled = compile_program(BUILDERS + "explicit", arguments, timeout_seconds=200)
    return program_facts(compiled.hlo, axes, {"slice": slices}), compiled


def explicit_bytes(axes, slices=1):
    """What the collectives of `programs.explicit` come to, by formula."""
    layer, rows = D * D * 2, R * D * 2
    expected = {
        ("all-gather", ("fsdp",)): L * layer,
        ("all-reduce", ("tensor",)): L * rows,
        ("collective-permute", ("fsdp",)): rows,
        ("reduce-scatter", ("fsdp",)): 2 * rows,
    }
    return expected | ({("all-reduce", ("slice",)): 2 * rows // axes["fsdp"]} if slices > 1 else {})


@needs_libtpu
@pytest.mark.parametrize(
    ("topology", "axes", "slices", "options"),
    [
        ("v5e:4x4", {"fsdp": 4, "tensor": 4}, 1, {}),
        ("v5e:4x4", {"tensor": 2, "fsdp": 8}, 1, {"shuffled": True, "unroll": L}),
        ("v5p:4x4x4", {"data": 1, "fsdp": 16, "tensor": 4}, 1, {}),
        ("v5p:2x2x2", {"slice": 2, "fsdp": 4, "tensor": 2}, 2, {}),
    ],
)
def test_collectives_are_counted_by_kind_axis_and_byte(topology, axes, slices, options):
    facts, _ = explicit_facts(topology, axes, slices=slices, **options)
    expected = explicit_bytes(axes, slices)
    moved = {}
    for one in facts.collectives:  # what the compiler makes of a scatter on a badly laid axis is another test
        kind = one.kind if one.stands_for is None else one.stands_for
        moved[kind, one.axes] = moved.get((kind, one.axes), 0) + one.total_bytes
    assert moved == expected
    assert all(one.size == math.prod(axes[axis] for axis in one.axes) for one in facts.collectives)
    assert [one.axes for one in facts.collectives if one.between_slices] == ([("slice",)] if slices > 1 else [])
    assert not facts.unknown_loops
    assert list(facts.loop_trips.values()) == ([] if "unroll" in options else [L])
    assert facts.argument_bytes == (L * D * D // axes["fsdp"] + R * D) * 2


@needs_libtpu
def test_an_axis_that_crosses_slices_in_part_is_reduced_within_them_first():
    axes = {"data": 4, "fsdp": 2, "tensor": 2}
    arguments = {"topology": "v5p:2x2x2", "axes": axes, "layers": 1, "rows": R, "width": D, "slices": 2}
    facts = program_facts(compile_program(BUILDERS + "explicit", arguments).hlo, axes, {"data": 2})
    summed = R * D * 4 // 2
    assert [
        (one.kind, one.bytes, one.size, one.between_slices) for one in facts.collectives if one.axes == ("data",)
    ] == [
        ("reduce-scatter", summed, 2, False),
        ("all-gather", summed, 2, False),
        ("all-reduce", summed // 2, 2, True),
    ]


@needs_libtpu
def test_a_flattened_axis_turns_gathers_and_scatters_into_all_reduces():
    axes = {"fsdp": 256, "tensor": 1}
    facts, _ = explicit_facts("v5e:16x16", axes)
    assert {(one.kind, one.stands_for, one.total_bytes) for one in facts.flattened()} == {
        ("all-reduce", "all-gather", L * D * D * 2),
        ("all-reduce", "reduce-scatter", R * D * 4),
    }
    assert ("all-gather", ("fsdp",)) not in facts.collective_bytes()
    split, _ = explicit_facts("v5e:16x16", {"data": 16, "fsdp": 16, "tensor": 1})
    assert not split.flattened()
    assert split.collective_bytes()["all-gather", ("fsdp",)] == L * D * D * 2


@needs_libtpu
def test_a_training_step_gathers_within_its_loops_and_is_donated_whole():
    axes = {"fsdp": 4, "tensor": 4}
    arguments = {"topology": "v5e:4x4", "axes": axes, "layers": 6, "rows": 512, "width": 512}
    facts = program_facts(compile_program(BUILDERS + "trained", arguments).hlo, axes)
    assert [(one.name, one.donated) for one in facts.arguments] == [
        ("state['down']", True),
        ("state['up']", True),
        ("x", False),
    ]
    assert facts.donated_bytes == 2 * 6 * 512 * 2048 * 2 // 16
    assert set(facts.loop_trips.values()) == {6}
    gathered = [one for one in facts.collectives if one.kind == "all-gather"]
    # Forward, recomputed or not, and backward: at least three matrices a layer, each 1/4 of 512 x 2048 by tensor.
    assert sum(one.total_bytes for one in gathered) >= 3 * 6 * 512 * 2048 * 2 // 4
    assert {one.axes for one in gathered} == {("fsdp",)}
    assert facts.gathers_outside_loops(2**10) == ()
    deeper = program_facts(compile_program(BUILDERS + "trained", arguments | {"layers": 12}).hlo, axes)
    assert deeper.text_bytes <= 1.05 * facts.text_bytes
    moved = [sum(one.total_bytes for one in each.collectives if one.loops) for each in (facts, deeper)]
    assert moved[1] == 2 * moved[0]


def fragment(name):
    return (pathlib.Path(__file__).parent / "fragments" / f"{name}.hlo").read_text()


def test_loops_within_loops_of_every_spelling():
    facts = program_facts(fragment("loops"), {"fsdp": 4, "tensor": 2})
    size = 8 * 128 * 4
    # 10, 9, 8 (> 7) and twice more by the compiler's word; 4 turns within each.
    assert facts.loop_trips == {"while.2": 3, "known": 2, "while.1": 4}
    assert facts.collective_bytes() == {
        ("collective-permute", ("fsdp",)): 5 * 4 * size,
        ("all-reduce", ("tensor",)): 5 * size,
        ("all-gather", ("fsdp",)): 4 * size,
    }
    assert {one.kind: (one.loops, one.times) for one in facts.collectives} == {
        "collective-permute": (2, 20),
        "all-reduce": (1, 5),
        "all-gather": (0, 1),
    }
    assert [one.name for one in facts.gathers_outside_loops(size)] == ["gather"]
    assert facts.cycles == 500
    assert facts.kernels == {"flash_attention": 1}
    assert [(one.name, one.bytes, one.donated) for one in facts.arguments] == [
        ("state['w']", size, False),
        ("x", size, True),
    ]
    assert facts.text_bytes == len(fragment("loops"))


def test_hbm_traffic_counts_slices_updates_and_copies_but_nothing_in_vmem():
    row = 64 * 128 * 2
    # The slice read; the copy out of VMEM; two operands and a result; the update read and written.
    assert program_facts(fragment("sliced"), {"fsdp": 1}).hbm_bytes == row + row + 3 * row + 2 * row


def test_collectives_within_fusions_count_once_and_by_what_they_are():
    facts = program_facts(fragment("beside"), {"fsdp": 4, "tensor": 2})
    row = 8 * 128 * 2
    assert sorted((one.kind, one.axes, one.bytes, one.stands_for or "") for one in facts.collectives) == [
        ("all-gather", ("fsdp",), 4 * row, ""),
        ("all-reduce", ("fsdp", "tensor"), 8 * row, "all-gather"),
        ("all-reduce", ("fsdp", "tensor"), 16 * row, ""),
        ("reduce-scatter", ("fsdp",), 8 * row, ""),
    ]


def groups_of(text):
    item = hlo_text.Instruction("c", "f32[]", "all-reduce", f"%x), replica_groups={text}, to_apply=%add", False)
    return {frozenset(group) for group in hlo_text.replica_groups(item).tolist()}


def brute_groups(sizes, joined):
    """Places of a grid by what their coordinates outside of `joined` are."""
    places = list(itertools.product(*(range(size) for size in sizes)))
    found = {}
    for number, place in enumerate(places):
        found.setdefault(tuple(c for axis, c in enumerate(place) if axis not in joined), set()).add(number)
    return {frozenset(group) for group in found.values()}


@pytest.mark.parametrize("joined", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_groups_in_every_notation(joined):
    sizes = (2, 4, 3)
    expected = brute_groups(sizes, joined)
    rows = "},{".join(",".join(map(str, sorted(group))) for group in sorted(expected, key=min))
    assert groups_of("{{" + rows + "}}") == expected
    rest = [axis for axis in range(3) if axis not in joined]
    ways = math.prod(sizes[axis] for axis in joined)
    order = ",".join(map(str, [*rest, *joined]))
    assert groups_of(f"[{24 // ways},{ways}]<=[2,4,3]T({order})") == expected
    names = ",".join(f"'axis_{axis}'" for axis in joined)
    assert groups_of(f"mesh['axis_0'=2,'axis_1'=4,'axis_2'=3] {{{names}}}") == expected


def test_groups_by_parts_of_an_axis_and_of_shuffled_devices():
    # The 8 places of `b` as 2 x 4: its first 2, then its last 4.
    assert groups_of("mesh['a'=2,'b'=8] {'b':(1)2}") == brute_groups((2, 2, 4), (1,))
    assert groups_of("mesh['a'=2,'b'=8] {'b':(2)4}") == brute_groups((2, 2, 4), (2,))
    assert groups_of("mesh['a'=2,'b'=8] {'a','b':(2)2}") == brute_groups((2, 2, 2, 2), (0, 2))
    ids = np.random.default_rng(0).permutation(8)
    expected = {frozenset(ids[list(group)].tolist()) for group in brute_groups((2, 4), (1,))}
    assert groups_of(f"mesh['a'=2,'b'=4], device_ids=({','.join(map(str, ids))}) {{'b'}}") == expected


def test_bytes_of_types():
    known = {
        "bf16[4,128]{1,0:T(8,128)(2,1)S(1)}": (1024, 1, (4, 128)),
        "f32[]": (4, 0, ()),
        "s4[16]": (8, 0, (16,)),
        "pred[3]": (3, 0, (3,)),
        "f8e4m3fn[5]": (5, 0, (5,)),
    }
    for text, facts in known.items():
        (shape,) = hlo_text.array_shapes(text)
        assert dataclasses.astuple(shape) == facts
    both = hlo_text.array_shapes("(f32[2,3]{1,0}, (u8[7], token[]), /*index=2*/s32[<=9])")
    assert [shape.bytes for shape in both] == [24, 7, 0, 36]


def test_what_is_not_a_program_is_refused():
    with pytest.raises(ValueError, match="does not begin with HloModule"):
        program_facts("hello", {"fsdp": 1})
