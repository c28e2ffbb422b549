"""Segments: data that are changed on the way are recorded, go on where they stood, and can be listed again."""

import dataclasses
import json

import pytest

from mmjax.core.config import build
from mmjax.core.errors import InputError
from mmjax.data.config import DataConfig, SourceEntry
from mmjax.data.mixture import Phase
from mmjax.data.segments import NAME, go_on, position_of, read_segments, segments_text, split_steps
from mmjax.data.stream import BatchStream
from mmjax.text.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()
CONFIG = build(
    DataConfig,
    {
        "sources": {
            "read": {"kind": "digits_read", "options": {"count": 90}},
            "bind": {"kind": "digits_bind", "options": {"count": 60, "shots": [1, 2]}},
        },
        "length": 112,
        "images": 8,
        "workers": 0,
    },
)


class Run:
    """What a run does with its stream, without a model: `read` goes on for some steps, saves and stops."""

    def __init__(self, workdir):
        self.workdir, self.position, self.ids = workdir, None, {}

    def read(self, config, stop):
        def make(begun):
            return BatchStream(config, TOKENIZER, start_step=step, begun=begun, batch_size=4, seed=3)

        step = self.position["step"] if self.position else 0
        stream, segments = go_on(self.workdir, make, step=step, position=self.position, from_step=config.from_step)
        (self.workdir / NAME).write_text(segments_text(segments))
        self.ids |= {number: stream.row_ids(number) for number in range(step, stop)}
        self.position = position_of(stream, stop)

    def again(self, first, stop):
        """The ids as they are found from the list of segments."""
        parts = split_steps(read_segments(self.workdir), range(first, stop))
        return {number: segment.stream(TOKENIZER).row_ids(number) for segment, part in parts for number in part}


def examples(run, name, first, stop):
    ids = [id for step in range(first, stop) for row in run.ids[step] for id in row.split("+")]
    return [id for id in ids if id.startswith(name)]


def weighed(read, bind, **changes):
    weights = {"read": read, "bind": bind}
    sources = {name: dataclasses.replace(entry, weight=weights[name]) for name, entry in CONFIG.sources.items()}
    return dataclasses.replace(CONFIG, sources=sources, **changes)


def test_a_run_of_one_configuration_is_one_segment(tmp_path):
    run, straight = Run(tmp_path), BatchStream(CONFIG, TOKENIZER, batch_size=4, seed=3)
    for stop in (3, 7, 9):
        run.read(dataclasses.replace(CONFIG, workers=stop), stop)
    assert len(read_segments(tmp_path)) == 1
    assert run.ids == {step: straight.row_ids(step) for step in range(9)} == run.again(0, 9)


def test_other_weights_begin_a_segment_where_it_is_meant(tmp_path):
    run = Run(tmp_path)
    run.read(CONFIG, 6)
    for other in (weighed(3.0, 1.0), weighed(3.0, 1.0, from_step=5)):
        with pytest.raises(InputError, match=r"read other data than this.*or set data.from_step to 6"):
            run.read(other, 9)
    run.read(weighed(3.0, 1.0, from_step=6), 9)
    run.read(weighed(3.0, 1.0, from_step=6), 12)  # the same command again, later
    run.read(weighed(3.0, 1.0), 14)
    assert [segment.begun.step for segment in read_segments(tmp_path)] == [0, 6]
    assert run.again(0, 14) == run.ids
    assert run.again(5, 7) == {step: run.ids[step] for step in (5, 6)}
    assert [sum(row.startswith("read") for row in run.ids[step]) for step in (5, 6, 13)] == [2, 3, 3]


def test_data_sets_go_on_where_they_stood(tmp_path):
    run = Run(tmp_path)
    run.read(CONFIG, 4)
    run.read(weighed(1.0, 3.0, from_step=4), 8)
    rows = BatchStream(weighed(0.0, 1.0), TOKENIZER, batch_size=1, seed=3)
    count = sum(row.startswith("bind") for step in range(8) for row in run.ids[step])
    in_order = [rows.row_ids(step)[0] for step in range(count)]
    assert sorted(row for step in range(8) for row in run.ids[step] if row.startswith("bind")) == sorted(in_order)


def test_rows_that_are_made_in_another_way_begin_with_the_next_epoch(tmp_path):
    run = Run(tmp_path)
    run.read(CONFIG, 4)
    run.read(dataclasses.replace(CONFIG, length=100, from_step=4), 6)
    assert {id.split(":")[1] for id in examples(run, "read", 0, 4)} == {"0"}
    assert {id.split(":")[1] for id in examples(run, "read", 4, 6)} == {"1"}
    assert run.again(0, 6) == run.ids


def test_a_new_data_set_and_a_phase_to_come(tmp_path):
    run = Run(tmp_path)
    run.read(CONFIG, 3)
    sources = CONFIG.sources | {"scene": SourceEntry("digits_scene", options={"count": 50, "questions": 2})}
    ramp = (Phase(3, {"read": 1.0, "bind": 1.0}), Phase(9, {"scene": 1.0}, "linearly"))
    run.read(dataclasses.replace(CONFIG, sources=sources, phases=ramp, from_step=3), 12)
    assert not examples(run, "scene", 0, 4)
    assert examples(run, "scene", 4, 9)
    assert not examples(run, "read", 9, 12) + examples(run, "bind", 9, 12)
    assert run.again(0, 12) == run.ids


def test_a_run_that_falls_back_to_an_older_step_forgets_what_came_after(tmp_path):
    run = Run(tmp_path)
    run.read(CONFIG, 3)
    older = dict(run.position)
    run.read(weighed(3.0, 1.0, from_step=3), 6)
    run.position = older  # the steps after were damaged
    first = dict(run.ids)
    run.read(weighed(3.0, 1.0, from_step=3), 6)
    assert run.ids == first
    run.position = older
    run.read(weighed(1.0, 3.0, from_step=3), 6)
    assert [segment.begun.step for segment in read_segments(tmp_path)] == [0, 3]
    assert run.again(0, 6) == run.ids != first


def test_a_position_without_a_list_of_segments_is_still_compared(tmp_path):
    run = Run(tmp_path)
    run.read(CONFIG, 3)
    (tmp_path / NAME).unlink()
    run.read(CONFIG, 5)
    assert run.again(0, 5) == run.ids
    (tmp_path / NAME).unlink()
    with pytest.raises(InputError, match="read other data"):
        run.read(weighed(2.0, 1.0), 6)


def test_a_damaged_list_and_lost_data_are_named(tmp_path):
    run = Run(tmp_path)
    run.read(CONFIG, 2)
    kept = json.loads((tmp_path / NAME).read_text())
    kept[0]["data"]["sources"]["read"]["options"]["count"] = 91
    (tmp_path / NAME).write_text(json.dumps(kept))
    with pytest.raises(InputError, match="the segment from step 0 cannot be read again"):
        run.again(0, 1)
    (tmp_path / NAME).write_text("[{")
    with pytest.raises(InputError, match=r"stream.json cannot be read .*put back a copy"):
        read_segments(tmp_path)
