"""The measurement of a slice: once on simulated devices, and what its table says of given figures."""

import json

import pytest

from benchmarks import pod
from mmjax.core.errors import InputError

PLAN = {"train": {"estimated_seconds": 2.5, "roofline_seconds": 2.0, "hbm_bytes": 2**30 * 80, "fits": True}}


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    path.write_text(json.dumps(PLAN))
    return path


def cells(line):
    return dict(zip(pod.COLUMNS, [cell.strip() for cell in line.strip().strip("|").split("|")], strict=True))


def test_a_tiny_run_fills_a_row(quick_programs, tmp_path, capsys, plan_file):
    table = tmp_path / "tables" / "pod.md"
    words = ["--config", "configs/flamingo_9b.py:tiny", "--steps=3", "--warmup=1", "--config.batch_size=16"]
    assert pod.main([*words, "--plan", str(plan_file), "--out", str(table)]) == 0
    head, ruler, line = table.read_text().splitlines()
    assert capsys.readouterr().out == table.read_text()
    assert set(ruler) == set("| -") and [cell.strip() for cell in head.strip("|").split("|")] == list(pod.COLUMNS)
    found = cells(line)
    assert (found["config"], found["devices"]) == ("flamingo_9b:tiny", "8 x cpu")
    assert (found["plan: estimate s"], found["plan: bound s"], found["plan: HBM GiB"]) == ("2.5", "2", "80.00")
    assert (found["MFU"], found["peak HBM GiB"]) == ("-", "-")  # a CPU has no nominal peak, and tells no memory
    seconds = float(found["step s"])
    tokens = 16 * pod.load_config("configs/flamingo_9b.py:tiny", []).data.length
    assert seconds > 0 and float(found["with data: step s"]) > 0
    assert float(found["tokens/s/chip"].replace(",", "")) == pytest.approx(tokens / seconds / 8, rel=0.01, abs=1)
    assert 0 <= float(found["waiting for data"].rstrip("%")) <= 100


def test_what_a_row_says():
    measured = pod.Measured(
        config="c",
        device_kind="TPU v5p",
        devices=256,
        chips=256.0,
        seconds=(1.0, 2.0, 2.0, 2.0, 9.0),
        tokens=1_048_576,
        images=2048,
        model_flops=int(0.5 * 2.0 * 256 * 459e12),
        hardware_flops=int(0.6 * 2.0 * 256 * 459e12),
        peak_flops=256 * 459e12,
        hbm_bytes=3 * 2**29,
    )
    found = cells(pod.table_line(pod.row(measured, PLAN["train"])))
    assert found["step s"] == "2" and found["10-90%"] == "1.4 to 6.2"
    assert (found["MFU"], found["HFU"]) == ("50.0%", "60.0%")
    assert (found["tokens/s/chip"], found["images/s/chip"]) == ("2,048", "4.0")
    assert found["peak HBM GiB"] == "1.50"
    assert found["with data: step s"] == found["waiting for data"] == "-"
    assert cells(pod.table_line(pod.row(measured, None)))["plan: bound s"] == "-"


def test_made_up_pictures_keep_the_shapes_and_the_weights():
    config = pod.load_config("configs/flamingo_digits.py:tiny", [])
    made_up = pod.synthetic(config)
    assert set(made_up.data.sources) == set(config.data.sources) and not made_up.data.phases
    shapes = [(one.data.length, one.data.images, one.data.image_size, one.batch_size) for one in (config, made_up)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("text, said", [("", "not what mmjax plan"), ('{"train": {}}', "no train.estimated_seconds")])
def test_a_file_that_is_no_plan_is_refused(tmp_path, text, said):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        pod.read_plan(str(path))


@pytest.mark.parametrize(
    "words, said",
    [
        (["--config", "configs/flamingo_9b.py:tiny", "--steps=1"], "--steps must be at least 2"),
        (["--config", "configs/flamingo_9b.py:tiny", "--setps=3"], "there is no option --setps=3"),
        (["--config", "configs/none.py"], "configs/none.py"),
    ],
)
def test_mistakes_are_one_line(capsys, words, said):
    assert pod.main(words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
