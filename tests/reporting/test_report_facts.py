import dataclasses
import json

import numpy as np
import pytest

from mmjax.reporting.facts import count_parts, duration, facts, signals, training_seconds, versions
from mmjax.reporting.pictures import heat_range, overlay
from mmjax.reporting.workdir import read_run
from tests.reporting.fabricated_run import metrics, scans, write_lines, write_manifest, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read_run(write_run(tmp_path_factory.mktemp("run")))


def test_parts_are_counted_with_what_is_frozen(run):
    parts = {part.name: part for part in count_parts(run.checkpoint)}
    assert list(parts) == ["vision", "resampler", "cross attention", "language"]
    vision, language = parts["vision"], parts["language"]
    assert (vision.parameters, vision.trained, vision.bytes) == (4 * 96 * 4 * 24, 0, 4 * 4 * 96 * 4 * 24)
    assert language.parameters == language.trained == 3 * 128 * 4 * 32 + 261 * 128
    assert count_parts(None) == []


def test_facts_of_the_whole_run(run):
    found = dict(facts(run))
    assert found["Steps"] == "1,200 of 1,200" and found["Seed"] == "0" and found["MFU"] == "not known"
    assert found["Time of the steps"] == "4 min 12 s", "lines count the seconds since the line before"
    assert found["Bad records"] == "none" and found["Newest checkpoint"] == "step 1,200"
    assert ("devices", "cpu:0") in versions(run)
    assert dict(versions(dataclasses.replace(run, versions={})))["python"] == "3.11.9"


def test_signals_say_what_went_wrong(run):
    assert {signal.state for signal in signals(run)} == {"good"}
    last = run.last | {"step": 700, "skipped_steps": 2, "recompilations": 1, "grounding_gap": 0.001}
    bad = [{"kind": "truncated"}, {"kind": "truncated"}, {"kind": "too_long"}]
    worse = dataclasses.replace(run, metrics=[*run.metrics[:-1], last], bad_records=bad)
    assert [(signal.text, signal.state) for signal in signals(worse)] == [
        ("700 of 1,200 steps done", "neutral"),
        ("2 skipped steps", "bad"),
        ("1 recompilation", "bad"),
        ("3 bad records", "bad"),
        ("grounding gap 0.001 nats", "bad"),
    ]
    assert dict(facts(worse))["Bad records"] == "2 truncated, 1 too_long"


def test_a_resumed_run_counts_each_step_once(tmp_path):
    rows = metrics(100, 10)
    write_lines(tmp_path / "metrics.jsonl", [*rows, rows[5] | {"loss": 9.0}, {"loss": 1.0}])
    run = read_run(tmp_path)
    assert [row["step"] for row in run.metrics] == list(range(10, 101, 10))
    assert run.metrics[5]["loss"] == 9.0
    assert training_seconds(run) == pytest.approx(21)


def test_the_newest_readable_manifest_is_taken(tmp_path):
    write_manifest(tmp_path, 100)
    write_manifest(tmp_path, 200)
    path = tmp_path / "checkpoints" / "200" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 3}))
    run = read_run(tmp_path)
    assert run.checkpoint.step == 100 and run.problems[0].startswith("checkpoint 200: ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (4.25, "4.2 s"), (252, "4 min 12 s"), (59.9, "1 min 0 s"), (1e5, "27 h 46 min"), (0, "0.0 s")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_heat_is_bright_where_the_attention_is():
    picture = scans()[0][0]
    heat = np.full((32, 32), 0.1, np.float32)
    heat[8:16, 8:16] = 8.0
    heat /= heat.mean()
    limits = heat_range([heat, heat, np.ones((32, 32), np.float32)])
    assert limits == (pytest.approx(heat.min()), pytest.approx(heat.max())), "one even map does not change the scale"
    drawn = overlay(picture, heat, limits).astype(int)
    assert drawn.shape == (256, 256, 3)
    inside, outside = drawn[80:112, 80:112].mean(axis=(0, 1)), drawn[160:, 160:].mean(axis=(0, 1))
    assert inside[0] > 150 and inside[0] > inside[2] and outside[0] < 100
    even = np.ones((32, 32), np.float32)
    limits = heat_range([even])
    assert limits == (0.8, 1.25)
    assert outside[0] + 50 < overlay(picture, even, limits)[0, 0, 0] < inside[0], (
        "an even look is neither bright nor dark"
    )
