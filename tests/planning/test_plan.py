"""Plans of tiny configurations, by the compiler: what they are made of, and that they are kept."""

import dataclasses
import importlib.util
import json
import time
import types

import pytest

from mmjax.cli.configs import config_chips, load_config
from mmjax.core.config import to_tree
from mmjax.core.errors import InputError
from mmjax.parallel.chips import CHIPS
from mmjax.planning import plan as plan_module
from mmjax.planning.compiler import compile_program
from mmjax.planning.hlo import Collective, ProgramFacts
from mmjax.planning.moves import fitting_moves
from mmjax.planning.plan import ProgramPlan, Request, plan
from mmjax.planning.programs import ServingShape
from mmjax.planning.roofline import Bounds
from mmjax.planning.stored import PlanStore
from mmjax.planning.text import moves_text, plan_text
from mmjax.planning.topology import parse_topology
from tests.planning.tiny_runs import tiny_run

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler: pip install mmjax[plan]"
)


@needs_libtpu
def test_a_plan_and_the_same_plan_again(tmp_path, monkeypatch):
    run = tiny_run("inline", frozen=("vision/.*",), rows=8, mesh={"data": 2, "fsdp": 2, "strategy": "full"})
    request, store = Request(run, parse_topology("v5p:2x2x1"), ("train",), None), PlanStore(tmp_path / "plans")
    made = plan(request, store=store)["train"]
    assert made.fits
    assert made.available_bytes == CHIPS["v5p"].slices.usable_hbm_bytes
    assert sum(made.parts.values()) == made.hbm_bytes < made.available_bytes
    assert min(made.parts.values()) >= 0
    # Parameters, two moments of those that are trained, and their gradients, each in a quarter on every device.
    assert made.state_bytes >= made.whole_state_bytes / 4
    assert made.donated_bytes >= 0.99 * made.state_bytes
    assert made.mesh == {"slice": 1, "data": 2, "fsdp": 2, "tensor": 1, "sequence": 1}
    assert set(made.collectives) >= {"all-gather", "all-reduce"}
    assert made.roofline_seconds == max(made.bound_seconds.values()) == made.bound_seconds[made.bound]
    peak = CHIPS["v5p"].peak_flops
    assert made.bound_seconds["compute"] == pytest.approx(made.hardware_flops / peak)
    assert made.roofline_mfu == pytest.approx(made.model_flops / peak / made.roofline_seconds)
    assert made.estimated_seconds >= made.roofline_seconds and "bounds" in made.estimated_by
    assert made.whole_gathers == ()

    def refused(*arguments, **further):
        raise AssertionError("compiled anew")

    monkeypatch.setattr(plan_module, "compile_program", refused)
    begin = time.monotonic()
    kept = plan(request, store=store)["train"]
    assert time.monotonic() - begin < 1
    assert json.dumps(dataclasses.asdict(kept)) == json.dumps(dataclasses.asdict(made))
    assert plan_text("train", kept) == plan_text("train", made)
    for changed in (
        dataclasses.replace(request, full=True),
        dataclasses.replace(request, topology=parse_topology("v5p:2x2x1", 2)),
        dataclasses.replace(request, run=dataclasses.replace(run, batch_size=16)),
    ):
        with pytest.raises(AssertionError, match="compiled anew"):
            plan(changed, store=store)


def test_a_kept_plan_that_cannot_be_read_is_made_anew(tmp_path):
    store = PlanStore(tmp_path / "plans")
    assert store.read("a") is None
    store.write("a", {"fits": True})
    assert store.read("a") == {"fits": True}
    (tmp_path / "plans" / "a.json").write_text('{"fits": tr')
    assert store.read("a") is None
    (tmp_path / "file").write_text("")
    PlanStore(tmp_path / "file").write("a", {})  # no folder: nothing is kept


@needs_libtpu
def test_what_writes_no_text_is_not_served():
    run = tiny_run("two_tower")
    with pytest.raises(InputError, match="two_tower writes no text: plan its train step alone"):
        plan(Request(run, parse_topology("v5e:1x1"), ("prefill",), ServingShape(1, 8, 8)))


def facts_of(*collectives, cycles=None):
    """Facts of a program that only sends."""
    return ProgramFacts("p", tuple(collectives), cycles, 0, 0, (), {}, (), {}, 0, 0)


def sent(stands_for, gigabytes, axes=("data", "fsdp")):
    return Collective("c", "all-reduce", int(gigabytes * 10**9), axes, 4, 2, 0, "", stands_for=stands_for)


def test_a_warning_names_the_axes_whose_gathers_are_all_reduces():
    """Of 2 x 10 GB: scatters of 4 GB and a gather of 6 GB are told of, but not gathers of 0.4 GB, 2% of all."""
    facts = facts_of(
        sent("all-gather", 3), sent("reduce-scatter", 2), sent(None, 4), sent("all-gather", 0.2, ("sequence",))
    )
    first, second = plan_module._warnings(facts)
    assert first.startswith("along data+fsdp, 6 GB of all-gather are made by all-reduces, which send twice as much")
    assert second.startswith("along data+fsdp, 4 GB of reduce-scatter are made by all-reduces")
    assert plan_module._warnings(facts_of(sent(None, 4))) == ()


def test_the_estimate_by_cycles_adds_kernels_and_what_no_computation_hides():
    """1.5e9 cycles at 1.5 GHz, kernels of half a second at peak; sending takes 2 s where computing takes 1.5 s."""
    topology = parse_topology("v5e:2x2")
    request = Request(tiny_run("inline"), topology, ("train",), None, full=True)
    peak = topology.chip.peak_flops
    assert topology.chip.clock_hertz == 1.5e9
    compiled = types.SimpleNamespace(full=True, facts={"kernel_flops": 0.5 * peak * 4})
    limits = Bounds(compute=1.5, hbm=1.0, ici=2.0, dcn=0.1)
    seconds, by = plan_module._estimate(request, compiled, facts_of(cycles=1_500_000_000), limits)
    assert seconds == pytest.approx(1.0 + 0.5 + 0.5) and "cycles" in by
    compiled.full = False
    seconds, by = plan_module._estimate(request, compiled, facts_of(), limits)
    assert seconds == pytest.approx(1.5 + 2.0 + 0.1) and "bounds" in by


@needs_libtpu
@pytest.mark.slow
def test_a_full_plan_has_the_estimate_of_the_compiler():
    run = tiny_run("inline", rows=8, mesh={"data": 2, "fsdp": 2})
    quick, full = (
        plan(Request(run, parse_topology("v5e:2x2"), ("train",), None, full=full))["train"] for full in (False, True)
    )
    assert "cycles" in full.estimated_by and "cycles" not in quick.estimated_by
    assert full.estimated_seconds > full.bound_seconds["compute"]
    assert (full.hbm_bytes, full.hardware_flops) == (quick.hbm_bytes, quick.hardware_flops)


@needs_libtpu
@pytest.mark.slow
def test_the_largest_state_is_made_in_its_shards():
    """Flamingo-80B: while a device makes its 6 GB of 400, it never holds as much as its shards and their half again."""
    chips = config_chips("flamingo_80b")[0]
    run, topology = load_config(f"flamingo_80b:{chips}", []), parse_topology(chips)
    made = compile_program(
        "mmjax.planning.programs:start", {"config": to_tree(run), "topology": topology.name, "slices": 1}
    )
    assert made.facts["whole_state_bytes"] > 50 * made.facts["state_bytes"]
    assert made.memory.output_bytes >= made.facts["state_bytes"]
    assert made.memory.hbm_bytes < 1.5 * made.facts["state_bytes"]


def made_up(fits, used=20, **further):
    """A plan of `used` of 16 bytes, of which only the memory tells."""
    empty = dict.fromkeys(field.name for field in dataclasses.fields(ProgramPlan))
    told = {"fits": fits, "hbm_bytes": used, "available_bytes": 16, "parts": {}, "warnings": (), "whole_gathers": ()}
    return ProgramPlan(**{**empty, **told, **further})


def moves_of(monkeypatch, run, topology, fits, *, serving=None, name="train"):
    """(kind, settings, fits) of the moves that are tried, where `fits` says of a request whether it fits."""

    def planned(request, *, store):
        return {name: made_up(fits(request))}

    monkeypatch.setattr("mmjax.planning.moves.plan", planned)
    tried = fitting_moves(Request(run, parse_topology(topology), (name,), serving), name)
    return [(move.kind, move.settings, move.plan.fits) for move in tried], tried


def test_every_kind_of_move_is_tried_until_one_fits(monkeypatch):
    run = tiny_run("flamingo", rows=32, mesh={"data": -1, "fsdp": 2})

    def fits(request):
        remat = request.run.model.config["decoder"]["remat"] == "full"
        return remat or request.run.batch_size <= 8 or request.run.accumulate_steps >= 4

    found, tried = moves_of(monkeypatch, run, "v5e:2x2", fits)
    parts = ("vision", "resampler", "decoder")
    assert found == [
        ("remat policy", " ".join(f"--config.model.config.{part}.remat=full" for part in parts), True),
        ("accumulation", "--config.accumulate_steps=2", False),
        ("accumulation", "--config.accumulate_steps=4", True),
        ("strategy", "--config.mesh.strategy=full", False),
        ("batch", "--config.batch_size=16", False),
        ("batch", "--config.batch_size=8", True),
        ("chips", "--topology v5e:2x4", False),
        ("chips", "--topology v5e:4x4", False),
        ("chips", "--topology v5e:4x8", False),
    ]
    lines = moves_text("train", tried).splitlines()
    assert len(lines) == 10 and lines[2] == "  no: accumulation: --config.accumulate_steps=2 (20 B of 16 B)"


def test_where_nothing_fits_it_is_said(monkeypatch):
    run = tiny_run("two_tower", rows=8, mesh={"data": 2, "fsdp": 2, "strategy": "full"})  # 8 chips can share 8 rows
    found, tried = moves_of(monkeypatch, run, "v5e:2x2", lambda request: False)
    kinds = [kind for kind, _, _ in found]
    assert "accumulation" not in kinds, "the loss of two towers compares all rows of the batch"
    assert "strategy" not in kinds
    assert ("chips", "--topology v5e:2x4 --config.mesh.fsdp=4", False) in found
    assert "none of them; take more chips" in moves_text("train", tried)


def test_what_serves_takes_fewer_rows(monkeypatch):
    def fits(request):
        return request.serving.rows <= 2

    found, _ = moves_of(
        monkeypatch, tiny_run("inline"), "v5e:16x16", fits, serving=ServingShape(8, 24, 8), name="decode"
    )
    assert found == [("rows", "--serve-rows 4", False), ("rows", "--serve-rows 2", True)]
