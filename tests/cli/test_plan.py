"""`mmjax plan`: what it prints, writes and refuses; the compiler itself is at work where it is installed."""

import importlib.metadata
import importlib.util
import json
import shlex
import textwrap

import pytest

from mmjax.parallel.chips import CHIPS
from mmjax.planning import topology as topology_module

CONFIG = "configs/flamingo_digits.py:tiny"
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler: pip install mmjax[plan]"
)
KEYS = {
    "fits",
    "hbm_bytes",
    "state_bytes",
    "temp_bytes",
    "model_flops",
    "hardware_flops",
    "hbm_traffic_bytes",
    "collectives",
    "roofline_seconds",
    "bound",
    "roofline_mfu",
    "estimated_seconds",
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: --config (mmjax plan --help explains)"),
        (("--programs", "train"), f"{CONFIG} names no chips; give --topology, e.g. --topology v5e:16x16"),
        (("--topology", "v5e:3x3"), "there is no slice v5e:3x3; the nearest is v5e:4x4"),
        (("--topology", "v5:4x4"), "'v5' is not a TPU that can be planned for; did you mean v5p?"),
        (("--topology", "v5e-100"), "there is no slice of 100 v5e chips; the nearest is v5e-128 (v5e:8x16)"),
        (("--topology", "v5e:2x2", "--slices", "0"), "0 slices of v5e:2x2 cannot be; give 1 or more"),
        (
            ("--topology", "v5e:2x2", "--programs", "train,prefil"),
            "--programs: 'prefil' is not one of train, prefill, decode",
        ),
        (("--topology", "v5e:2x2", "--share", "1.5"), "--share must be above 0 and at most 1, not 1.5"),
        (("--topology", "v5e:2x2", "--audit", "--report", "x.html"), "--report draws one plan; leave out --audit"),
        (
            ("--topology", "v5e:2x2", "--serve-mesh", "tensr=2"),
            "--serve-mesh: 'tensr=2' is not AXIS=N with an axis of slice, data, fsdp, tensor, sequence",
        ),
        (("--topology", "v5e:2x2", "--serve-mesh", "tensor=3"), "4 devices cannot be split over mesh axes of 3"),
        (("--topology", "v5e:2x2", "--config.mesh.data=3"), "the mesh has 3 places but there are 4 devices"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, refused):
    config = ("--config", CONFIG) if arguments else ()
    assert refused("plan", *config, *arguments).startswith(message)


@pytest.mark.parametrize("further", [(), ("--search",)])
def test_without_the_compiler_the_error_says_what_to_install(further, refused, monkeypatch):
    version = importlib.metadata.version

    def installed(name):
        if name == "libtpu":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(topology_module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(importlib.metadata, "version", installed)
    line = refused("plan", "--config", CONFIG, "--topology", "v5e:2x2", *further)
    assert "the package libtpu, which is not installed; run `pip install mmjax[plan]`" in line


def test_the_audit_needs_no_compiler(mmjax, monkeypatch):
    monkeypatch.setattr(topology_module.importlib.util, "find_spec", lambda name: None)
    code, out, err = mmjax("plan", "--config", CONFIG, "--topology", "v5p:8x8x16", "--audit")
    assert (code, err) == (0, "")
    assert "1024 devices" in out and "decoder/embedding" in out and "copies" in out


def test_what_writes_no_text_has_no_programs_to_serve(refused):
    options = ("--topology", "v5e:2x2", "--programs", "train,decode")
    line = refused("plan", "--config", "configs/clip_l14.py:tiny", *options)
    assert "two_tower writes no text" in line


@needs_libtpu
def test_a_plan_in_all_its_forms(mmjax, tmp_path):
    """Printed, as JSON, as a page; and at once the second time."""
    json_file, page = tmp_path / "plan.json", tmp_path / "plan.html"
    arguments = ["plan", "--config", CONFIG, "--topology", "v5e:2x2", "--config.mesh.fsdp=2", "--report", page]
    arguments += ["--serve-mesh", "tensor=2"]
    code, out, err = mmjax(*arguments, "--json", json_file)
    assert (code, err) == (0, f"report: {page}\n")
    plans = json.loads(json_file.read_text())
    assert list(plans) == ["train", "prefill", "decode", "cost"]
    usable = CHIPS["v5e"].slices.usable_hbm_bytes
    for name in ("train", "prefill", "decode"):
        plan = plans[name]
        assert set(plan) >= KEYS
        assert plan["fits"] and plan["available_bytes"] == usable
        assert sum(plan["parts"].values()) == plan["hbm_bytes"] < usable
        assert plan["bound"] in ("compute", "hbm", "ici", "dcn")
        assert plan["roofline_seconds"] == plan["bound_seconds"][plan["bound"]]
        assert 0 < plan["roofline_mfu"] < 1
        assert all(
            told["count"] > 0 and told["bytes"] > 0 for kind in plan["collectives"].values() for told in kind.values()
        )
        assert f"{name}: " in out
    assert plans["train"]["donated_bytes"] >= 0.99 * plans["train"]["state_bytes"]
    # The pictures' keys and values are made by prefill, and only read by decode.
    cache = plans["decode"]["parts"]["cache"]
    assert 0.8 * cache < plans["prefill"]["donated_bytes"] <= plans["decode"]["donated_bytes"] == cache
    assert plans["train"]["hardware_flops"] > plans["train"]["model_flops"] > plans["prefill"]["model_flops"]
    assert 0 < plans["cost"]["padding_share"] < 1
    assert plans["cost"]["examples_per_day"] > 1.5 * plans["cost"]["rows_per_day"], "rows are packed"
    assert [plans[name]["mesh"]["tensor"] for name in ("train", "prefill", "decode")] == [1, 2, 2]
    assert out.count("mesh data 2 x fsdp 2 (hybrid)") == out.count("\nmesh data 2 x tensor 2 (hybrid)") == 1
    assert plans["train"]["seconds"]["processor"] > 0
    text = page.read_text(encoding="utf-8")
    assert "flamingo_digits.py:tiny on v5e:2x2" in text and text.count("<svg") == 9
    code, again, err = mmjax(*arguments, "--json", "-")
    assert (code, json.loads(again)) == (0, plans)
    assert out.splitlines()[0] in err, "beside JSON on standard output, the text goes to standard error"


@needs_libtpu
def test_what_does_not_fit_is_refused_and_its_own_move_fits(mmjax, tmp_path):
    """Too many rows for what each of 64 layers keeps; no part of the batch divides by the chips, none are larger."""
    config = tmp_path / "configs" / "large.py"
    config.parent.mkdir()
    config.write_text(
        textwrap.dedent("""
        import ml_collections
        from mmjax.core.config import to_tree
        from tests.planning.tiny_runs import DECODER, FAMILIES, tiny_run

        def get_config():
            settings = {**FAMILIES["inline"], "decoder": {**DECODER, "tied_embeddings": False, "layers": 64}}
            mesh = {"data": 16, "fsdp": 16, "strategy": "full"}
            run = tiny_run("inline", rows=256 * 12001, model={"family": "inline", "config": settings}, mesh=mesh)
            return ml_collections.ConfigDict(to_tree(run))
        """)
    )
    report = tmp_path / "plan.json"
    arguments = ["plan", "--config", config, "--topology", "v5e:16x16", "--programs", "train", "--json", report]
    code, out, err = mmjax(*arguments)
    assert (code, err) == (2, "")
    refused = json.loads(report.read_text())
    plan = refused["train"]
    assert not plan["fits"] and plan["hbm_bytes"] > plan["available_bytes"] == CHIPS["v5e"].slices.usable_hbm_bytes
    assert sum(plan["parts"].values()) == plan["hbm_bytes"]
    assert plan["estimated_seconds"] is None and "cost" not in refused
    assert "DOES NOT FIT" in out and "what would make it fit" in out
    (move,) = plan["moves"]
    assert (move["kind"], move["plan"]["fits"]) == ("remat policy", True)
    assert f"fits: remat policy: {move['settings']}" in out
    code, out, _ = mmjax(*arguments, *shlex.split(move["settings"]))
    assert code == 0
    assert json.loads(report.read_text())["train"] == move["plan"]
