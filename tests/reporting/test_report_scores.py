import pytest

from mmjax.reporting.scores import (
    family_of,
    headlines,
    progress_chart,
    read_scores,
    shots_chart,
    table_groups,
    task_label,
)
from tests.reporting.fabricated_run import evaluations, score, scores


def test_labels():
    assert task_label("bind_2way_heldout") == "bind 2-way, held-out classes"
    assert task_label("read_scene_left") == "read scene left"


def test_controls_stand_beside_their_score():
    rows = [
        score("bind_2way", 4, 0.97, 600, 0.5),
        score("bind_2way", 0, 0.5, 600, 0.5),
        score("bind_2way", 4, 0.49, 600, 0.5, "blanked"),
        {"task": "broken", "shots": 0},
        {"task": "none", "shots": 0, "score": None},
    ]
    zero, four = read_scores(rows)
    assert (zero.shots, four.shots) == (0, 4)
    assert four.controls == {"blanked": 0.49} and zero.controls == {}
    assert (zero.verdict, four.verdict) == ("chance", "above")


def test_a_score_without_interval_or_chance_is_still_a_score():
    (one,) = read_scores([{"task": "read", "shots": 0, "score": 0.4}])
    assert (one.low, one.high, one.chance, one.verdict) == (0.4, 0.4, None, "unknown")


def test_headlines_take_the_shots_that_have_controls():
    by_label = {one.label: one for one in headlines(read_scores(scores()))}
    assert list(by_label) == [
        "read single",
        "read interleaved",
        "read scene",
        "bind 2-way",
        "bind 5-way",
        "bind 2-way, held-out classes",
        "bind 2-way, rotated classes",
    ]
    assert by_label["bind 2-way"].detail == "4 shots" and by_label["bind 2-way"].blanked == pytest.approx(0.49)
    family = by_label["read scene"]
    assert family.detail == "mean of 10 kinds" and family.low < family.score < family.high
    assert family.verdict == "mixed" and family.blanked is None
    plain = headlines(read_scores([score("bind", shots, 0.5 + shots / 20, 600, 0.5) for shots in (0, 8, 2)]))
    assert plain[0].detail == "8 shots"


def test_many_alike_tasks_are_a_family():
    tasks = [f"read_scene_{kind}" for kind in ("a", "b", "c", "d")] + ["bind_2way", "bind_5way"]
    assert set(family_of(tasks).values()) == {"read_scene", "bind_2way", "bind_5way"}
    groups = table_groups(read_scores([score(task, 0, 0.5, 10, 0.1) for task in tasks]))
    assert [starts for _, starts, _ in groups] == [True, False, False, False, True, True]


def test_shots_are_drawn_where_there_are_several():
    chart = str(shots_chart(read_scores(scores())))
    assert "bind 2-way, rotated classes" in chart and "read single" not in chart
    assert shots_chart(read_scores([score("bind", 4, 0.9, 10, 0.5), score("read", 0, 0.9, 10, 0.5)])) == ""


def test_progress_takes_the_last_word_on_a_step():
    lines = [*evaluations(), {"step": 1200, "rows": [score("read_single", 0, 0.25, 100, 0.1)]}, {"step": 1300}]
    chart = str(progress_chart(lines))
    assert "read single, 0 shots <b>25.0%</b>" in chart and "bind 2-way, 4 shots <b>98.0%</b>" in chart
    assert progress_chart([]) == ""
