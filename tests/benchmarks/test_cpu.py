"""The comparison on CPU: both sides of tiny models, the turns they take, and what the tables say."""

import json
import sys

import jax
import pytest

from benchmarks import alternate, cpu, cpu_parts
from benchmarks.alternate import SideError, Timed, compare

SIDE = """
import sys
from benchmarks.alternate import Work, serve
order = open(sys.argv[1], "a")
def step(): order.write(sys.argv[2][0]); order.flush(); print("what libraries say", flush=True)
def fail(): raise SystemExit(3)
serve(lambda: Work({"step": step, "fail": fail}, parameters=int(sys.argv[3]), flops={"step": 7}))
"""


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def commands(order, **parameters):
    return {name: [sys.executable, "-c", SIDE, str(order), name, str(n)] for name, n in parameters.items()}


@pytest.mark.parametrize("work", ["decoder", "vit"])
def test_both_sides_run_models_of_one_size(work, quick_programs, torch):
    ours, theirs = (cpu.SIDES[work][side](cpu.QUICK) for side in ("ours", "torch"))
    assert ours.parameters == theirs.parameters > 10_000
    assert list(ours.steps) == list(theirs.steps)
    for side in (ours, theirs):
        for step in side.steps.values():
            step()
            step()  # what the first one donated is there again


def test_the_published_sizes():
    shape = cpu.Shape()
    assert shape.tokens.shape == (4, 512) and shape.images.shape == (8, 224, 224, 3)
    # Of a ViT-B/16: 8 pictures, 197 tokens, three passes.
    assert cpu_parts.flops_of(shape)["up"] == 3 * 2 * 8 * 197 * 768 * 3072
    assert cpu_parts.flops_of(shape)["attention"] == 3 * 2 * 2 * 8 * 12 * 197 * 197 * 64
    assert cpu_parts.flops_of(shape)["patches"] == 3 * 2 * 8 * 196 * 768 * 768


def test_parts_are_the_same_computation(quick_programs, torch):
    ours, theirs = cpu_parts.ours(cpu.QUICK), cpu_parts.theirs(cpu.QUICK)
    assert list(ours.steps) == list(theirs.steps) == list(cpu_parts.flops_of(cpu.QUICK))
    for name in ours.steps:
        gradients = ours.steps[name]()
        theirs.steps[name]()
        assert all(abs(gradient).sum() > 0 for gradient in gradients)


def test_sides_take_turns(tmp_path):
    order = tmp_path / "order"
    timed = compare(commands(order, ours=5, torch=5), ["step"], rounds=3, warmup=2)["step"]
    assert order.read_text() == "ot" * 5
    assert len(timed.ours) == len(timed.torch) == len(timed.busy_ratios) == 3 and timed.flops == 7


def test_what_ends_a_comparison(tmp_path):
    with pytest.raises(SideError, match=r"differ in their number of parameters: .*'ours': 5, 'torch': 6"):
        compare(commands(tmp_path / "order", ours=5, torch=6), ["step"], rounds=1)
    with pytest.raises(SideError, match="side 'ours' ended with exit code 3"):
        compare(commands(tmp_path / "order", ours=5, torch=5), ["fail"], rounds=1)


def test_tables(monkeypatch, capsys):
    timed = Timed((2.0, 1.0, 4.0), (3.0, 3.0, 4.0), (4.0, 2.0, 4.0), (4.0, 3.0, 8.0))
    seen = []

    def compared(commands, steps, **settings):
        seen.append((json.dumps(commands), settings["environment"]["NPROC"]))
        return dict.fromkeys(steps, timed)

    monkeypatch.setattr(cpu, "compare", compared)
    cpu.main(["--threads", "3"])
    head, _, decoder, forward, backward = capsys.readouterr().out.splitlines()
    assert head.strip("| ").startswith("ours, s") and forward.startswith("| ViT, forward ")
    cells = [cell.strip() for cell in decoder.strip("|").split("|")]
    assert cells[1] == "2 (1 to 4)" and cells[3:5] == ["1024 tokens/s", "682.7 tokens/s"]
    assert cells[5:] == ["1.50 (1.00 to 3.00)", "1.50 (1.00 to 2.00)"]
    assert "4 images/s" in backward and all(threads == "3" for _, threads in seen)
    cpu.main(["--parts"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(cpu_parts.flops_of(cpu.Shape())) and "1e+03" in lines[2]
    assert alternate.spread((1.0, 2.0, 9.0)) == "2 (1 to 9)"
