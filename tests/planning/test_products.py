"""FLOPs of scheduled programs: of products by hand, and of whole steps beside the formulas of test_flops."""

import dataclasses
import importlib.util

import jax
import pytest

from mmjax.ops.attention import target_platform
from mmjax.ops.flops import count_flops, real_pairs
from mmjax.parallel.mesh import make_mesh
from mmjax.planning.flops import model_flops, remat_everywhere
from mmjax.planning.hlo import program_facts
from mmjax.planning.plan import Request, plan
from mmjax.planning.programs import ServingShape, train_step
from mmjax.planning.topology import parse_topology
from tests.planning.tiny_runs import tiny_run

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler: pip install mmjax[plan]"
)


def program(instruction, *parameters):
    """A program of one instruction, whose operands are a and b, within a loop's body that runs three times."""
    left, right = parameters
    return f"""HloModule one, entry_computation_layout={{()->f32[]}}

%fused (a: {left}, b: {right}) -> f32[] {{
  %a = {left} parameter(0)
  %b = {right} parameter(1)
  ROOT %made = {instruction}
}}

%body (state: (s32[], {left}, {right})) -> (s32[], {left}, {right}) {{
  %state = (s32[], {left}, {right}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = {left} get-tuple-element(%state), index=1
  %y = {right} get-tuple-element(%state), index=2
  %product = f32[] fusion(%x, %y), kind=kOutput, calls=%fused
  ROOT %next = (s32[], {left}, {right}) tuple(%i, %x, %y)
}}

%condition (state.1: (s32[], {left}, {right})) -> pred[] {{
  %state.1 = (s32[], {left}, {right}) parameter(0)
  ROOT %more = pred[] constant(true)
}}

ENTRY %main (start: (s32[], {left}, {right})) -> (s32[], {left}, {right}) {{
  %start = (s32[], {left}, {right}) parameter(0)
  ROOT %loop = (s32[], {left}, {right}) while(%start), condition=%condition, body=%body, \
backend_config={{"known_trip_count":{{"n":"3"}}}}
}}
"""


@pytest.mark.parametrize(
    ("instruction", "left", "right", "once"),
    [
        # [5,7] with [7,11].
        ("f32[5,11] convolution(%a, %b), dim_labels=bf_io->bf", "bf16[5,7]", "bf16[7,11]", 2 * 5 * 7 * 11),
        (
            "f32[2,5,11] dot(%a, %b), lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}, "
            "rhs_contracting_dims={1}",
            "bf16[2,5,7]",
            "bf16[2,7,11]",
            2 * 2 * 5 * 7 * 11,
        ),
        # Three products as a window over the batch, of which each place meets one tap.
        (
            "f32[3,5,11] convolution(%a, %b), window={size=3 stride=2 pad=0_0 lhs_dilate=3}, dim_labels=0bf_0io->0bf",
            "bf16[3,5,7]",
            "bf16[3,7,11]",
            2 * 3 * 5 * 7 * 11,
        ),
        # A picture of 6 x 6 and a window of 3 x 3: at the edges, one row or column of it lies on padding.
        (
            "f32[4,6,6,9] convolution(%a, %b), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f",
            "bf16[4,6,6,8]",
            "bf16[3,3,8,9]",
            2 * 4 * 9 * 8 * (6 * 3 - 2) ** 2,
        ),
        # In two groups of features, each with its own half of the 8.
        (
            "f32[4,6,9] convolution(%a, %b), window={size=1}, dim_labels=b0f_0io->b0f, feature_group_count=2",
            "bf16[4,6,8]",
            "bf16[1,4,9]",
            2 * 4 * 6 * 9 * 4,
        ),
    ],
)
def test_a_product_is_counted_within_fusions_and_loops(instruction, left, right, once):
    assert program_facts(program(instruction, left, right), {"data": 1}).flops == 3 * once


def test_places_and_taps_that_meet():
    assert real_pairs(6, 3, 6, stride=1, low=1, stretch=1, apart=1) == 16
    assert real_pairs(4, 2, 2, stride=2, low=0, stretch=1, apart=1) == 4
    assert real_pairs(3, 1, 5, stride=1, low=0, stretch=2, apart=1) == 3, "every other place lies between elements"
    assert real_pairs(5, 2, 3, stride=1, low=0, stretch=1, apart=2) == 6


def planned(run, program, *, topology="v5e:2x2", rows=4):
    """The plan of one program, and the model's FLOPs of all devices, which are counted on the traced program."""
    serving = ServingShape(rows, 24, 8)
    one = plan(Request(run, parse_topology(topology), (program,), serving))[program]
    return one, model_flops(run, serving)[program]


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("family", ["flamingo", "inline"])
def test_a_step_that_is_shared_evenly_computes_its_share(family):
    """Of two axes, and with everything computed again: what the traced program says, which formulas prove.

    Of what is computed again, the compiler leaves out what nothing reads.
    """
    run = tiny_run(family, rows=8, mesh={"data": 2, "fsdp": 2, "strategy": "full"})
    for policy, least in (("none", 1.0), ("full", 0.95)):
        config = remat_everywhere(run.model.config, policy)
        own = dataclasses.replace(run, model=dataclasses.replace(run.model, config=config))
        one, whole = planned(own, "train")
        with target_platform("tpu"):
            step, state, batch = train_step(own, make_mesh(own.mesh, jax.devices("cpu")[:4]))
            traced = count_flops(step, state.abstract, batch).total
        assert least <= one.hardware_flops * 4 / traced <= 1.0
        assert traced > (1.3 if policy == "full" else 1.0) * whole


@needs_libtpu
@pytest.mark.parametrize("rows", [4, 1])
def test_what_devices_compute_alike_counts_on_each(rows):
    """Four rows over four devices are shared; one row is computed by all, and the plan says so."""
    one, whole = planned(tiny_run("flamingo", rows=8, mesh={"data": 4}), "decode", rows=rows)
    assert one.hardware_flops == whole / min(rows, 4)
    assert one.model_flops == whole / 4
    warned = (
        "1 rows at a time do not divide by data 4: several devices compute the same rows; give a multiple of 4 rows"
    )
    assert one.warnings == (() if rows == 4 else (f"{warned}, or other mesh sizes",))
