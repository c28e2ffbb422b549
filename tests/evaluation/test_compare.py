"""Two evaluations compared: against scipy's permutation test, and that the same items are asked for."""

import json

import numpy as np
import pytest
import scipy.stats

from mmjax.core.errors import InputError
from mmjax.evaluation.compare import compare, comparison_table, paired_p


def write(path, scores, **setting):
    """scores [seeds, items]."""
    place = {"task": "vqav2", "shots": 4, "selection": "random", "control": "none", **setting}
    rows = [
        {**place, "seed": seed, "id": f"q{number}", "score": float(value)}
        for seed, row in enumerate(scores)
        for number, value in enumerate(row)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.mark.parametrize("items", [9, 40])
def test_p_is_that_of_scipys_paired_permutations(items):
    random = np.random.default_rng(items)
    a, b = random.random(items), random.random(items) + 0.15
    found = scipy.stats.permutation_test(
        (a, b), lambda a, b: np.mean(b - a), permutation_type="samples", n_resamples=20_000, rng=random
    )
    assert paired_p(b - a) == pytest.approx(found.pvalue, abs=1e-9 if items < 12 else 0.012)
    assert paired_p(np.zeros(5)) == 1.0
    assert paired_p(np.ones(10)) == 2 / 2**10


def test_chance_is_called_chance():
    random = np.random.default_rng(0)
    below = [paired_p(random.choice([-1.0, 0.0, 1.0], 60)) < 0.05 for _ in range(60)]
    assert np.mean(below) < 0.15


def test_settings_that_both_have_are_compared(tmp_path):
    random = np.random.default_rng(1)
    a = (random.random((3, 80)) < 0.5).astype(float)
    b = np.maximum(a, random.random((3, 80)) < 0.3)
    [one] = compare(write(tmp_path / "a.jsonl", a), write(tmp_path / "b.jsonl", b))
    assert (one.task, one.items, one.seeds, one.worse) == ("vqav2", 80, 3, 0)
    assert one.a == pytest.approx(a.mean()) and one.difference == pytest.approx((b - a).mean())
    assert 0 < one.low < one.difference < one.high and one.p < 0.001
    drawn = scipy.stats.bootstrap(((b - a).mean(axis=0),), np.mean, n_resamples=9999, method="percentile")
    np.testing.assert_allclose((one.low, one.high), drawn.confidence_interval, atol=0.02)
    assert f"vqav2, 4 shots, random, none: {100 * a.mean():.1f} -> {100 * b.mean():.1f}" in comparison_table([one])
    [back] = compare(tmp_path / "b.jsonl", tmp_path / "a.jsonl")
    assert back.difference == pytest.approx(-one.difference) and back.p == one.p and back.better == 0


def test_only_the_same_items_are_compared(tmp_path):
    a = write(tmp_path / "a.jsonl", np.ones((1, 5)))
    with pytest.raises(InputError, match="only one of them has seed 0 of item q5"):
        compare(a, write(tmp_path / "b.jsonl", np.ones((1, 6))))
    with pytest.raises(InputError, match="no setting"):
        compare(a, write(tmp_path / "c.jsonl", np.ones((1, 5)), shots=8))
    with pytest.raises(InputError, match="there is no file of predictions"):
        compare(a, tmp_path / "d.jsonl")
