"""The comparison on a GPU: both sides of tiny models, the operations that are counted, and what it says without one."""

import jax
import pytest

from benchmarks import gpu, gpu_ours
from benchmarks.alternate import SideError, Timed
from benchmarks.gpu_shapes import TINY, Shapes


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", list(gpu.NAMES))
def test_both_sides_run_models_of_one_size(name, quick_programs, torch):
    from benchmarks import gpu_torch

    ours, theirs = gpu_ours.WORKS[name](TINY), gpu_torch.WORKS[name](TINY)
    assert ours.parameters == theirs.parameters
    assert ours.flops["run"] > 0
    for side in (ours, theirs):
        side.steps["run"]()
        side.steps["run"]()


def test_flops_of_a_train_step_are_those_of_the_formula(quick_programs):
    text = TINY.decoder
    heads = (text.heads + text.kv_heads) * text.head_width * 2
    matrices = text.layers * text.width * (heads + 3 * text.mlp_width) + text.width * text.vocabulary
    pairs = text.rows * text.length * (text.length + 1) // 2
    attention = text.layers * 2 * 2 * pairs * text.heads * text.head_width
    expected = 3 * (2 * text.rows * text.length * matrices + attention)
    assert gpu_ours.WORKS["decoder"](TINY).flops["run"] == pytest.approx(expected, rel=0.02)


def test_without_a_gpu_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "_PROBE", 'print(\'{"platform": "cpu", "kind": "cpu", "torch": true}\')')
    with pytest.raises(SystemExit) as ended:
        gpu.main([])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: not measured: JAX found no GPU here\n"


def test_a_row(monkeypatch, capsys):
    timed = Timed((2.0, 2.0), (3.0, 3.0), (2.0, 2.0), (3.0, 3.0), flops=int(989e12))

    def compared(commands, steps, **settings):
        if "vit" in commands["ours"]:
            raise SideError("the side 'torch' ended")
        return {"run": timed}

    monkeypatch.setattr(gpu, "compare", compared)
    monkeypatch.setattr(gpu, "gpu_here", lambda: "NVIDIA H100 80GB HBM3")
    assert gpu.main(["--only", "decoder"]) == 0
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].strip("|").split("|")]
    assert cells[1:] == [
        "2 (2 to 2)",
        "3 (3 to 3)",
        "2,048 tokens",
        "1,365 tokens",
        "50.0%",
        "33.3%",
        "1.50 (1.50 to 1.50)",
    ]
    assert gpu.main(["--only", "vit"]) == 1
    said = capsys.readouterr()
    assert "failed" in said.out and said.err == "error: ViT, train step: the side 'torch' ended\n"
    assert Shapes().multimodal().shape == (4, 1024)
