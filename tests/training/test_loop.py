"""The loop: what a run leaves behind, and that stopping and resuming changes nothing."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from mmjax.checkpoints.inspect import inspect
from mmjax.core.errors import InputError, TrainingError
from mmjax.training import loop
from mmjax.training.load import find_run, load_run
from mmjax.training.loop import Trainer
from tests.training.tiny_runs import FROZEN, tiny_config

pytestmark = pytest.mark.usefixtures("quick_programs")


def digest(workdir):
    return inspect(workdir, warn=pytest.fail)["sha256"]


def metric_lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run of four steps that nothing disturbs."""
    workdir = tmp_path_factory.mktemp("straight")
    rows = []

    def evaluate(model, params, tokenizer, step):
        rows.append(step)
        return [{"task": "probe", "shots": 0, "selection": "random", "control": "none", "score": step / 10}]

    result = Trainer(tiny_config("eval_every_steps=2"), workdir, evaluate=evaluate).train()
    assert rows == [2, 4]
    assert (result.step, result.stopped_by) == (4, "")
    return workdir


def test_a_run_leaves_what_the_readme_names(straight):
    lines = metric_lines(straight)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert {"loss", "tokens_per_second", "useful_token_share", "grounding_gap", "gradient_norm"} <= set(line)
        assert line["recompilations"] == 0
        assert 0 < line["useful_token_share"] <= 1
        assert line["mfu"] is None  # of a CPU the peak is not known
    gates = lines[-1]["gates"]
    assert set(gates) >= {"decoder/layers/cross_0/attention_gate", "decoder/layers/cross_0/mlp_gate"}
    assert all(0.4 < gate < 0.5 for values in gates.values() for gate in values)  # tanh(0.5), hardly moved
    assert json.loads((straight / "config.json").read_text())["total_steps"] == 4
    assert {"jax", "mmjax"} <= set(json.loads((straight / "versions.json").read_text()))
    assert list((straight / "tensorboard").glob("events*"))
    evaluations = [json.loads(line) for line in (straight / "evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in evaluations] == [2, 4]


def test_what_is_compiled_after_the_first_step_is_counted(tmp_path, monkeypatch):
    """Anywhere between two steps, not in the step alone; what the run itself does compiles nothing (the test above)."""
    read = loop.Trainer.put

    def put(trainer, batch):
        placed = read(trainer, batch)
        return placed.replace(positions=jax.jit(lambda x: x[:])(placed.positions))

    monkeypatch.setattr(loop.Trainer, "put", put)
    Trainer(tiny_config("total_steps=3", "checkpoint.every_steps=0"), tmp_path).train()
    assert [line["recompilations"] for line in metric_lines(tmp_path)] == [0, 1, 1]


@pytest.mark.parametrize("step", [1, 2])
def test_what_is_sent_to_the_devices_unasked_ends_the_run(step, tmp_path, monkeypatch):
    finish = loop.Window.finish

    asked = []

    def slips(window, metrics, filling):
        asked.append(metrics)
        if len(asked) == step:
            jax.numpy.add(metrics.loss, np.zeros((), np.float32))  # an array of the host
        finish(window, metrics, filling)

    monkeypatch.setattr(loop.Window, "finish", slips)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        Trainer(tiny_config("total_steps=3", "checkpoint.every_steps=0"), tmp_path).train()
    assert len(asked) == step


def test_a_resumed_run_equals_a_straight_one(straight, tmp_path):
    Trainer(tiny_config("total_steps=2"), tmp_path).train()
    Trainer(tiny_config(), tmp_path).train()
    assert digest(tmp_path) == digest(straight)
    both = [[line["loss"] for line in metric_lines(workdir)] for workdir in (tmp_path, straight)]
    assert both[0] == both[1]


def test_lines_after_the_step_that_is_resumed_are_dropped_and_a_change_of_settings_is_said(tmp_path, capsys):
    Trainer(tiny_config("checkpoint.every_steps=0", "total_steps=2"), tmp_path).train()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "loss": 9.0}\n{"step": 4, "lo')
    Trainer(tiny_config("checkpoint.every_steps=0", "total_steps=3", "optim.learning_rate=0.5"), tmp_path).train()
    assert [line["step"] for line in metric_lines(tmp_path)] == [1, 2, 3]
    assert metric_lines(tmp_path)[-1]["loss"] != 9.0
    assert "changed since then: config.optim.learning_rate 0.001 -> 0.5" in capsys.readouterr().err


def test_a_finished_run_is_left_alone(straight, capsys):
    before = digest(straight)
    assert Trainer(tiny_config("eval_every_steps=2"), straight).train().step == 4
    assert "nothing is left to do" in capsys.readouterr().err
    assert digest(straight) == before


def test_other_data_are_refused(straight):
    with pytest.raises(InputError, match="read other data"):
        Trainer(tiny_config("total_steps=6", "data.window=7"), straight).train()


def test_repeated_non_finite_steps_stop_the_run_and_name_the_examples(tmp_path):
    config = tiny_config("objective.z_loss=1e38", "total_steps=50", "guards.max_nonfinite_steps=3")
    with pytest.raises(TrainingError, match=r"3 steps in a row .* step 3: (read|scene|bind):0:\d+"):
        Trainer(config, tmp_path).train()


def test_a_run_starts_from_the_parameters_of_another(straight, tmp_path):
    config = tiny_config(FROZEN, f"init_from={straight}", "total_steps=1")
    Trainer(config, tmp_path).train()
    mesh = Trainer(config, tmp_path).mesh
    old, new = load_run(straight, mesh).params, load_run(tmp_path, mesh).params
    assert set(old) == set(new)
    for path in old:
        if path.startswith("vision/"):
            np.testing.assert_array_equal(np.asarray(old[path]), np.asarray(new[path]))
    moved = [path for path in old if not np.array_equal(np.asarray(old[path]), np.asarray(new[path]))]
    assert moved and all("cross_" in path or path.startswith("resampler/") for path in moved)


def test_parameters_that_do_not_fit_are_all_named(straight, tmp_path):
    config = tiny_config(f"init_from={straight}", "model.config.resampler.latents=5", "model.config.resampler.layers=2")
    with pytest.raises(InputError, match=r"resampler/latents \(\(3, 16\) there, \(5, 16\) here\)"):
        Trainer(config, tmp_path).train()


def test_runs_are_found_by_workdir_checkpoints_or_step(straight):
    assert find_run(straight) == (straight, None)
    assert find_run(straight / "checkpoints") == (straight, None)
    assert find_run(straight / "checkpoints" / "2") == (straight, 2)
    with pytest.raises(InputError, match="not the workdir of a run"):
        find_run(straight / "tensorboard")
    mesh = Trainer(tiny_config(), straight).mesh
    assert load_run(straight / "checkpoints" / "2", mesh).step == 2
    assert load_run(straight, mesh).step == 4


def test_a_stuck_step_ends_the_process_with_all_stacks():
    code = "import time; from mmjax.training.guards import Watchdog; Watchdog(0.5).beat('step 7'); time.sleep(30)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "at step 7" in done.stderr and "most recent call first" in done.stderr


def test_compilations_are_counted_only_while_watching():
    from mmjax.training.guards import CompilationCounter

    counter = CompilationCounter()
    try:
        jax.jit(lambda x: x + 1)(np.float32(1))
        assert counter.count == 0
        with counter.watching():
            jax.jit(lambda x: x * 3 + 2)(np.float32(1))
        assert counter.count >= 1
    finally:
        counter.close()
