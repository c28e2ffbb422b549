"""The search with a compiler that is made up: what is tried, in which order, and what is passed over."""

import dataclasses
import importlib.util

import jax
import pytest

from mmjax.ops.attention import default_backend
from mmjax.parallel.mesh import make_mesh
from mmjax.planning import search as search_module
from mmjax.planning.flops import model_flops, seen_flops, step_flops
from mmjax.planning.plan import ProgramPlan, Request
from mmjax.planning.programs import train_step
from mmjax.planning.search import POLICIES, meshes, one_line, search
from mmjax.planning.text import search_text
from mmjax.planning.topology import parse_topology
from tests.planning.tiny_runs import VISION, tiny_run

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler: pip install mmjax[plan]"
)
AVAILABLE, FIXED = 1000, 100
# FLOPs of a step, of those without recomputation.
AGAIN = {"none": 1.0, "dots_attention": 1.01, "dots": 1.03, "attention": 1.3, "full": 1.33}


@pytest.fixture
def compiler(monkeypatch):
    """Plans whose memory and seconds are functions of (rows, remat, mesh); the requests in order."""

    def install(memory, seconds):
        asked = []

        def planned(request, *, store):
            run = request.run
            what = run.batch_size, run.model.config["decoder"]["remat"], run.mesh
            assert run.model.config["vision"]["remat"] == what[1]
            asked.append(what)
            used = memory(*what)
            fits = used <= AVAILABLE
            empty = dict.fromkeys(field.name for field in dataclasses.fields(ProgramPlan))
            told = {"fits": fits, "hbm_bytes": used, "available_bytes": AVAILABLE, "parts": {"parameters": FIXED}}
            told |= {"roofline_seconds": seconds(*what), "roofline_mfu": 0.5, "bound": "hbm"} if fits else {}
            return {"train": ProgramPlan(**{**empty, **told})}

        monkeypatch.setattr(search_module, "plan", planned)
        monkeypatch.setattr(search_module, "require_compiler", lambda: None)
        # A row takes a second, and what is computed again.
        peak = parse_topology("v5e:2x2").chip.peak_flops * 4
        monkeypatch.setattr(search_module, "step_flops", lambda run, remat: int(peak * AGAIN[remat]) * run.batch_size)
        return asked

    return install


def request_of(**mesh):
    run = tiny_run("flamingo", rows=16, mesh={"data": 2, "fsdp": 2, "strategy": "full", **mesh})
    return Request(run, parse_topology("v5e:2x2"), ("train",), None)


def test_meshes_lie_along_the_torus():
    def sizes(text, slices=1, **mesh):
        run = tiny_run("flamingo", mesh={"data": -1, **mesh})
        found = meshes(Request(run, parse_topology(text, slices), ("train",), None))
        return [(one.slice, one.data, one.fsdp, one.tensor, one.sequence, one.strategy) for one in found]

    assert sizes("v5e:16x16") == [
        (1, 256, 1, 1, 1, "hybrid"),
        (1, 16, 16, 1, 1, "full"),
        (1, 8, 16, 2, 1, "full"),
        (1, 4, 16, 4, 1, "full"),
        (1, 2, 16, 8, 1, "full"),
    ]
    three = sizes("v5p:4x4x8", slices=2, slice=2)
    assert three[0] == (2, 128, 1, 1, 1, "hybrid")
    assert (2, 4, 32, 1, 1, "full") in three and (2, 16, 8, 1, 1, "full") in three
    assert all(one[0] * one[1] * one[2] * one[3] == 256 for one in three)


def test_the_cheapest_bound_is_tried_first_and_what_cannot_win_is_not(compiler):
    """All fits, and takes little more than its bound: the first is the best, and nothing else can beat it."""
    asked = compiler(lambda *what: 10, lambda rows, remat, mesh: rows * AGAIN[remat] * 1.0001)
    found = search(request_of(), tries=50)
    assert {remat for _, remat, _ in asked} == {"none"}, "computing again has a dearer bound"
    assert asked[0][0] == 64, "of equal bounds the larger batch"
    assert found[0].combination.remat == "none"
    seconds = [one.seconds_per_row for one in found]
    assert seconds == sorted(seconds)


def test_what_needs_more_than_what_did_not_fit_is_passed_over(compiler):
    """Only full recomputation fits: no more is kept, and no more rows are tried, than what failed."""
    asked = compiler(
        lambda rows, remat, mesh: FIXED + rows * {"full": 12}.get(remat, 300), lambda rows, remat, mesh: rows * 2.0
    )
    found = search(request_of(), tries=100)
    assert [one.plan.fits for one in found] == sorted((one.plan.fits for one in found), reverse=True)
    assert found[0].plan.fits and found[0].combination.remat == "full"
    for number, (rows, remat, mesh) in enumerate(asked):
        for earlier_rows, earlier_remat, earlier_mesh in asked[:number]:
            failed = earlier_remat != "full"
            keeps_less = POLICIES.index(earlier_remat) >= POLICIES.index(remat)
            assert not (failed and earlier_mesh == mesh and earlier_rows <= rows and keeps_less)
    # 64 rows tell that 4 would need 1,300 of 1,000 too.
    failed = [(remat, mesh) for _, remat, mesh in asked if remat != "full"]
    assert len(failed) == len(set(failed)) and {rows for rows, remat, _ in asked if remat != "full"} == {64}


def test_fewer_rows_are_tried_where_they_may_fit(compiler):
    """64 rows need 1,700, 32 rows 900."""
    asked = compiler(lambda rows, remat, mesh: FIXED + rows * 25, lambda rows, remat, mesh: rows * 1.5)
    found = search(request_of(), tries=3)
    assert [(rows, remat) for rows, remat, mesh in asked if mesh.tensor == 1][:2] == [(64, "none"), (32, "none")]
    assert found[0].plan.fits and found[0].combination.rows == 32


def test_the_number_of_tries_is_kept(compiler):
    asked = compiler(lambda *what: 10 * AVAILABLE, lambda *what: 1.0)
    told = []
    found = search(request_of(), tries=3, tell=told.append)
    assert len(asked) == len(found) == len(told) == 3
    assert told[0].startswith("1 of at most 3: batch 64, remat none, ") and "does not fit" in told[0]
    assert not any(one.plan.fits for one in found)
    assert search_text(found).count("does not fit, 10 kB of 1 kB") == 3


def test_a_combination_in_the_words_of_the_command_line(compiler):
    compiler(lambda *what: 10, lambda *what: 1.0)
    found = search(request_of(), tries=1)
    assert one_line(found[0].combination) == "batch 64, remat none, data=2 fsdp=2 (full)"
    assert "15.6 ms a row, MFU 50.0% at most, bound by hbm" in search_text(found)


def test_what_is_frozen_is_not_run_again():
    """Of a frozen tower no gradient is taken, so that its policy costs nothing."""
    run = tiny_run("inline", rows=4, frozen=("vision/.*", "decoder/.*"))
    counts = [step_flops(run, remat) for remat in POLICIES]
    assert counts == sorted(counts) and counts[0] == model_flops(run, None)["train"] < counts[-1]
    only_vision = dataclasses.replace(
        run, model=dataclasses.replace(run.model, config={**run.model.config, "vision": {**VISION, "remat": "full"}})
    )
    assert step_flops_as_written(only_vision) == counts[0]


def step_flops_as_written(run):
    mesh = make_mesh(run.mesh, jax.devices("cpu")[:1])
    with default_backend("reference"):
        step, plan, batch = train_step(run, mesh)
        return seen_flops(step, plan.abstract, batch)


@needs_libtpu
@pytest.mark.slow
def test_a_search_with_the_compiler_itself():
    """All fits: no recomputation has the least FLOPs, and no combination is told that is faster than its bound."""
    run = tiny_run("inline", rows=16, mesh={"data": 2, "fsdp": 2, "strategy": "full"})
    found = search(Request(run, parse_topology("v5e:2x2"), ("train",), None), tries=3)
    assert 1 <= len(found) <= 3 and found[0].plan.fits
    assert found[0].combination.remat == "none"
    for one in found:
        assert one.seconds_per_row >= one.combination.seconds_per_row
        assert one.plan.mesh["data"] == one.combination.mesh.data
