"""The tasks of the digit scans: what they ask, of which scans, in the layout of training."""

import collections

import numpy as np
import pytest

from mmjax.core.errors import ConfigError, InputError
from mmjax.data.config import DataConfig, SourceEntry
from mmjax.data.digits import DigitsRead, ReadConfig
from mmjax.data.episode import prompt_segments
from mmjax.data.scans import Scans, ScansConfig
from mmjax.decoding.prompt import as_text
from mmjax.evaluation.tasks import choose_tasks, digit_tasks

DATA = DataConfig(
    sources={
        "read": SourceEntry("digits_read", options={"question": "digit?"}),
        "scene": SourceEntry("digits_scene", options={"kinds": ("sum", "left")}),
        "bind": SourceEntry("digits_bind", options={"classes": (0, 1, 3, 4, 5, 6, 8, 9), "ways": (2,)}),
    },
    image_size=16,
)
TASKS = digit_tasks(DATA)


def test_each_kind_of_data_has_its_tasks():
    assert list(TASKS) == [
        "read_single",
        "read_interleaved",
        "read_scene_sum",
        "read_scene_left",
        "bind_2way",
        "bind_5way",
        "bind_2way_heldout",
        "bind_2way_rotated",
    ]
    alone = digit_tasks(DataConfig(sources={"r": SourceEntry("digits_read")}))
    assert list(alone) == ["read_single", "read_interleaved"]
    every = DataConfig(sources={"b": SourceEntry("digits_bind")})
    assert "bind_2way_heldout" not in digit_tasks(every)  # nothing is held out
    few = DataConfig(sources={"b": SourceEntry("digits_bind", options={"classes": (0, 1, 2)})})
    assert "bind_5way" not in digit_tasks(few)
    with pytest.raises(ConfigError, match=r"data\.sources\.r\.options\.shot "):
        digit_tasks(DataConfig(sources={"r": SourceEntry("digits_read", options={"shot": (1,)})}))


def test_tasks_are_chosen_by_name():
    assert [task.name for task in choose_tasks(TASKS, ["bind_5way", "read_single"])] == ["bind_5way", "read_single"]
    assert choose_tasks(TASKS, []) == list(TASKS.values())
    with pytest.raises(InputError, match="did you mean bind_2way"):
        choose_tasks(TASKS, ["bind_2ways"])


def test_the_layout_is_that_of_training():
    trained = DigitsRead(ReadConfig(question="digit?", shots=(3,)), name="r", seed=0, image_size=16).episode(0)
    asked = TASKS["read_interleaved"].episodes(0, 0, 1)[0]

    def shape(episode):
        return "".join("9" if letter.isdigit() else letter for letter in as_text(prompt_segments(episode)))

    assert shape(asked) == shape(trained) == "<image>digit? 9." * 3 + "<image>digit?"
    assert as_text(prompt_segments(TASKS["read_single"].episodes(0, 0, 1)[0])) == "<image>digit?"


@pytest.mark.parametrize(
    "name, shots, classes",
    [("read_single", 0, range(10)), ("bind_2way", 1, (0, 1, 3, 4, 5, 6, 8, 9)), ("bind_2way_heldout", 2, (2, 7))],
)
def test_each_seed_asks_every_held_out_scan_once(name, shots, classes):
    scans = Scans(ScansConfig(split="test", classes=tuple(classes), sizes=(1.0,)), DATA.image_size)
    ids = []
    for seed in range(2):
        episodes = TASKS[name].episodes(shots, seed, 360)
        assert len(episodes) == len(scans) <= 360
        answers = collections.Counter(episode.query.answer for episode in episodes)
        if name == "read_single":
            assert answers == collections.Counter(map(str, scans.labels.tolist()))
        ids += [episode.id for episode in episodes]
    assert len(set(ids)) == 2 * len(scans)
    # Of whole size, the picture of every query is a held-out scan, and each is there.
    config = DataConfig(
        sources={
            name: SourceEntry(entry.kind, options={**entry.options, "sizes": (1.0,)})
            for name, entry in DATA.sources.items()
            if entry.kind != "digits_scene"
        },
        image_size=DATA.image_size,
    )
    asked = digit_tasks(config)[name].episodes(shots, 1, 360)
    assert {episode.query.media.load()[0].tobytes() for episode in asked} == {
        scans.picture(scan, (0,)).tobytes() for scan in range(len(scans))
    }


def test_episodes_are_a_function_of_shots_seed_and_place():
    def asked(shots, seed, queries):
        return [
            (episode.id, as_text(prompt_segments(episode)), episode.query.answer, episode.candidates)
            for episode in TASKS["bind_2way"].episodes(shots, seed, queries)
        ]

    first = asked(2, 1, 20)
    assert asked(2, 1, 20) == first and asked(2, 1, 8) == first[:8]
    assert asked(2, 0, 20) != first and asked(1, 1, 20) != first
    again = TASKS["bind_2way"].episodes(2, 1, 1)[0].query.media.load()[0]
    np.testing.assert_array_equal(again, digit_tasks(DATA)["bind_2way"].episodes(2, 1, 1)[0].query.media.load()[0])


@pytest.mark.parametrize("name, ways", [("bind_2way", 2), ("bind_5way", 5), ("bind_2way_heldout", 2)])
@pytest.mark.parametrize("shots", [0, 1, 3])
def test_shots_are_of_each_word(name, ways, shots):
    for episode in TASKS[name].episodes(shots, 0, 30):
        shown = collections.Counter(turn.answer for turn in episode.demonstrations)
        assert len(episode.candidates) == ways and episode.query.answer in episode.candidates
        assert shown == (dict.fromkeys(episode.candidates, shots) if shots else {})


def test_more_shots_than_scans():
    with pytest.raises(InputError, match=r"bind_2way has \d+ held-out scans of a digit, so at most \d+ shots, not 64"):
        TASKS["bind_2way"].episodes(64, 0, 5)
