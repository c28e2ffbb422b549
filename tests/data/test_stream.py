"""The stream is a function of its position: any processes, any workers, straight or resumed, bad records or not."""

import dataclasses
import hashlib
import itertools
import os
import pathlib
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from mmjax.core.config import build
from mmjax.core.errors import ConfigError, DataError, InputError, TrainingError
from mmjax.core.example import Example, Media, Text
from mmjax.data.config import DataConfig, SourceEntry, make_source
from mmjax.data.sources.kinds import DIGITS, SOURCES
from mmjax.data.stream import BatchStream
from mmjax.text.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()
SETTINGS = {
    "sources": {
        "read": {"kind": "digits_read", "weight": 2.0, "options": {"count": 90}},
        "bind": {"kind": "digits_bind", "loss_weight": 0.5, "options": {"count": 60, "shots": [1, 2]}},
        "scene": {"kind": "digits_scene", "options": {"count": 50, "questions": 2}},
    },
    "phases": [{"first_step": 6, "weights": {"bind": 1.0, "read": 1.0}}],
    "length": 112,
    "images": 8,
    "next_image_probability": 0.5,
}
CONFIG = build(DataConfig, SETTINGS)


def make(config=CONFIG, **settings):
    return BatchStream(config, TOKENIZER, **{"batch_size": 8, "seed": 3, "workers": 0} | settings)


def take(stream, count):
    return list(itertools.islice(stream, count))


def digest(items):
    """A hash of every number of a list of items."""
    state = hashlib.sha256()
    for item in items:
        state.update(repr((item.step, item.ids, item.bad_records)).encode())
        for leaf in jax.tree.leaves(item.batch):
            state.update(repr((leaf.dtype, leaf.shape)).encode() + leaf.tobytes())
    return state.hexdigest()


@pytest.fixture(scope="module")
def straight():
    return take(make(), 12)


def test_steps_are_counted_and_shapes_are_fixed(straight):
    assert [item.step for item in straight] == list(range(12))
    for item in straight:
        assert item.batch.tokens.shape == (8, 112)
        assert item.batch.images.shape == (8, 8, 32, 32, 3)
        assert len(item.ids) == 8


@pytest.mark.parametrize(("pack", "expected"), [(True, "3062e2621b97ea52"), (False, "67e5699e1c02c884")])
def test_which_examples_a_step_holds_is_the_same_on_every_machine(pack, expected):
    """Seen on Python 3.11 and 3.12: where this changes, no run that stands half-way can go on."""
    stream = make(dataclasses.replace(CONFIG, pack=pack))
    ids = [stream.row_ids(step) for step in range(40)]
    assert hashlib.sha256(repr(ids).encode()).hexdigest()[:16] == expected


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_change_nothing(straight, workers):
    assert digest(take(make(workers=workers), 12)) == digest(straight)


@pytest.mark.parametrize("start", [1, 5, 6, 11])
def test_a_resumed_stream_is_the_same_stream(straight, start):
    assert digest(take(make(start_step=start, workers=2), 12 - start)) == digest(straight[start:])


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_processes_share_the_same_global_batch(straight, processes):
    parts = [
        take(make(process_index=process, process_count=processes, workers=process % 3, start_step=4), 8)
        for process in range(processes)
    ]
    for number, whole in enumerate(straight[4:]):
        joined = [part[number] for part in parts]
        assert tuple(id for item in joined for id in item.ids) == whole.ids
        batches = jax.tree.map(lambda *leaves: np.concatenate(leaves), *[item.batch for item in joined])
        jax.tree.map(np.testing.assert_array_equal, batches, whole.batch)


def test_rows_are_read_wherever_they_stand_in_the_batch(straight):
    # Two processes may hold the same row, and the rows of one need not be consecutive.
    for rows in ([0, 1, 4, 5], [1, 4], range(8)):
        for item, whole in zip(take(make(rows=rows), 3), straight, strict=False):
            assert item.ids == tuple(whole.ids[row] for row in rows)
            mine = jax.tree.map(lambda leaf: leaf[list(rows)], whole.batch)  # noqa: B023
            jax.tree.map(np.testing.assert_array_equal, item.batch, mine)
    assert make(rows=[3]).fingerprint() == make().fingerprint()


def test_another_interpreter_makes_the_same_stream(straight):
    program = "from tests.data.test_stream import digest, make, take; print(digest(take(make(workers=1), 12)))"
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=pathlib.Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == digest(straight)


def test_ids_are_known_without_reading_pictures(straight, monkeypatch):
    monkeypatch.setattr(Media, "load", lambda self: pytest.fail("a picture was decoded"))
    planned = make()
    assert [planned.row_ids(item.step) for item in straight] == [item.ids for item in straight]
    halves = [make(process_index=process, process_count=2).row_ids(7) for process in (0, 1)]
    assert halves[0] + halves[1] == straight[7].ids


def test_an_epoch_gives_every_example_once():
    stream = make(dataclasses.replace(CONFIG, sources={"bind": CONFIG.sources["bind"]}, phases=()), batch_size=1)
    rows = stream.plan.packed[0].rows
    for epoch in range(3):
        ids = [id for step in range(epoch * rows, (epoch + 1) * rows) for id in stream.row_ids(step)[0].split("+")]
        assert sorted(ids) == sorted(f"bind:{epoch}:{index}" for index in range(60))


def test_rows_are_packed_from_one_data_set_in_its_share(straight):
    names = ("bind", "read", "scene")
    for item in straight:
        for row, number in zip(item.ids, item.batch.dataset_ids, strict=True):
            assert {id.split(":")[0] for id in row.split("+")} == {names[number]}
            assert item.batch.segment_ids[item.ids.index(row)].max() == row.count("+") + 1
    assert [np.bincount(item.batch.dataset_ids, minlength=3).tolist() for item in straight[:6]] == [[2, 4, 2]] * 6
    assert [np.bincount(item.batch.dataset_ids, minlength=3).tolist() for item in straight[6:]] == [[4, 4, 0]] * 6
    assert max(row.count("+") for item in straight for row in item.ids) >= 3


def changed(config=CONFIG, **settings):
    return dataclasses.replace(config, **{"phases": ()} | settings)


def shares_of(stream, steps):
    """Rows of each data set in each step, as planned."""
    names = stream.dataset_names
    return [[sum(row.startswith(f"{name}:") for row in stream.row_ids(step)) for name in names] for step in steps]


def test_data_sets_may_be_weighed_by_their_rows():
    equal = {name: dataclasses.replace(entry, weight=1.0) for name, entry in CONFIG.sources.items()}
    by_rows = make(changed(weigh_by="rows", sources=equal))
    rows = {entry["name"]: 8 * entry["rows"] for entry in by_rows.sizes()}
    assert by_rows.plan.before(sum(rows.values()) // 8) == rows
    evened = make(changed(temperature=1e9))
    assert shares_of(evened, range(3)) != shares_of(make(changed()), range(3))
    assert [sum(step[place] for step in shares_of(evened, range(6))) for place in range(3)] == [16, 16, 16]


@pytest.mark.parametrize("weigh_by", ["weight", "rows"])
def test_a_stream_of_epochs_ends(weigh_by):
    """Once every data set was read twice; the rows that the last batch lacks are empty and have no weight."""
    stream = make(changed(epochs=2, weigh_by=weigh_by, sources={k: CONFIG.sources[k] for k in ("bind", "read")}))
    items = list(stream)
    assert [item.step for item in items] == list(range(stream.plan.steps))
    ids = [id for item in items for row in item.ids if row for id in row.split("+")]
    counts = {id: ids.count(id) for id in ids}
    assert set(counts.values()) == {1}
    for name, count in (("bind", 60), ("read", 90)):
        assert {f"{name}:{epoch}:{index}" for epoch in (0, 1) for index in range(count)} <= counts.keys()
    empty = [place for place, row in enumerate(items[-1].ids) if not row]
    assert len(empty) == len(items) * 8 - stream.plan.end
    for leaf in (items[-1].batch.loss_weights, items[-1].batch.segment_ids, items[-1].batch.image_mask):
        assert not leaf[empty].any()
    assert list(make(stream.config, start_step=stream.plan.steps)) == []
    with pytest.raises(InputError, match=f"the stream has no step {stream.plan.steps}"):
        stream.read(stream.plan.steps)
    halves = [make(stream.config, process_index=process, process_count=2) for process in (0, 1)]
    last = stream.plan.steps - 1
    assert tuple(id for half in halves for id in half.row_ids(last)) == items[-1].ids


STAGES = (
    {"first_step": 0, "weights": {"bind": 1.0}, "max_length": 75, "detail": 0.25},
    {"first_step": 4, "noise": 0.1},
    {"first_step": 7, "weights": {"read": 1.0}, "reached": "linearly"},
)


def test_stages_are_ordered_by_length_detail_and_noise():
    config = build(DataConfig, SETTINGS | {"phases": STAGES})
    stream, plain = make(config), make(changed())
    lengths = stream._lengths[stream.dataset_names.index("bind")].tokens
    items = take(stream, 9)
    assert {item.batch.images.shape for item in items} == {(8, 8, 32, 32, 3)}

    def longest(item):
        ids = [id for row in item.ids for id in row.split("+") if id.startswith("bind")]
        return max(lengths[int(id.split(":")[2])] for id in ids)

    assert max(map(longest, items[:4])) <= 75 < max(map(longest, items[4:6]))
    pictures = {}
    for item in take(plain, 40):
        for row, ids in enumerate(item.ids):
            pictures[ids.split("+")[0]] = item.batch.images[row, 0]
    shown = {"coarse": 0, "noisy": 0, "plain": 0}
    for item in items:
        for row, ids in enumerate(item.ids):
            first = ids.split("+")[0]
            if first in pictures:
                same = np.array_equal(pictures[first], item.batch.images[row, 0])
                shown["coarse" if item.step < 4 else "noisy" if item.step < 7 else "plain"] += 1
                assert same == (item.step >= 7)
    assert all(shown.values())
    assert digest(take(make(config, start_step=3, workers=2), 6)) == digest(items[3:])
    assert stream.plan.before(4) == {"bind": 0, "bind<=75": 32, "read": 0, "scene": 0}
    assert shares_of(stream, (4, 6, 7)) == [[7, 1, 0], [1, 7, 0], [0, 8, 0]]


def test_the_images_of_a_batch_are_spread_over_devices():
    stream = make(batch_size=32)
    counts = np.array([item.batch.image_mask.sum(axis=1) for item in take(stream, 6)])
    for devices in (2, 4, 8):
        sums = counts.reshape(6, devices, -1).sum(axis=2)
        assert (sums.max(axis=1) - sums.mean(axis=1) <= 2).all()


def test_the_loss_weight_of_a_data_set_is_in_its_rows(straight):
    for item in straight:
        for number, weights in zip(item.batch.dataset_ids, item.batch.loss_weights, strict=True):
            assert set(np.unique(weights)) <= {0.0, (0.5, 1.0, 1.0)[number]}
    assert {float(item.batch.loss_weights.max()) for item in straight} == {1.0}
    bound = make(dataclasses.replace(CONFIG, sources={"bind": CONFIG.sources["bind"]}, phases=()))
    assert bound.read(0).batch.loss_weights.max() == 0.5


def test_half_of_the_examples_look_at_the_next_image():
    counts = {True: 0, False: 0}
    for item in take(make(), 30):
        for first in zip(*np.nonzero(item.batch.positions + (item.batch.segment_ids == 0) == 0), strict=True):
            counts[bool(item.batch.media_index[first] > 0)] += 1
    total = sum(counts.values())
    assert abs(counts[True] - total / 2) < 3 * np.sqrt(total)


def test_the_seed_decides():
    assert make(seed=4).row_ids(0) != make().row_ids(0)
    assert make(seed=4).fingerprint() != make().fingerprint()


def test_the_fingerprint_names_what_decides_the_batches():
    first = make().fingerprint()
    assert make(workers=3, start_step=9, process_index=1, process_count=2).fingerprint() == first
    assert make(dataclasses.replace(CONFIG, workers=7)).fingerprint() == first
    assert make(batch_size=16).fingerprint() != first
    for changes in ({"length": 120}, {"images": 9}, {"window": 99}):
        assert make(dataclasses.replace(CONFIG, **changes)).fingerprint() != first
    longer = CONFIG.sources | {"read": SourceEntry("digits_read", options={"count": 91})}
    assert make(dataclasses.replace(CONFIG, sources=longer)).fingerprint() != first


class Numbers:
    """Examples of one or two pictures that spell their number; those of `bad` cannot be read, in two ways."""

    name = "numbers"

    def __init__(self, count=40, bad=()):
        self._count, self._bad = count, bad

    def __len__(self):
        return self._count

    def load(self, index, epoch):
        pictures = [Media((lambda: self._picture(index),)) for _ in range(1 + index % 2)]
        return Example(f"numbers:{epoch}:{index}", (*pictures, Text(f"{index:0{3 + index % 3}}", loss=True)))

    def _picture(self, index):
        if index in self._bad:
            raise DataError(f"record {index} is cut off", kind=("truncated", "not_an_image")[index % 2])
        return np.full((4, 4, 3), index, np.uint8)


def numbers(bad=(), count=40, max_bad_share=1.0, **settings):
    config = DataConfig(
        sources={"numbers": SourceEntry("given")}, length=32, images=4, image_size=4, max_bad_share=max_bad_share
    )
    return make(config, sources={"numbers": Numbers(count, bad)}, **settings)


BAD = (3, 4, 5, 10, 11, 39)


def test_a_bad_record_is_replaced_by_the_next_that_fits_its_place():
    items = take(numbers(BAD), 12)
    records = {record for item in items for record in item.bad_records}
    lengths, images = numbers()._lengths[0]
    assert {record.id.split(":")[2] for record in records} == set(map(str, BAD))
    for record in records:
        bad, good = (int(id.split(":")[2]) for id in (record.id, record.replaced_by))
        between = [number % 40 for number in range(bad + 1, bad + (good - bad) % 40)]
        assert good not in BAD
        assert lengths[good] <= lengths[bad]
        assert images[good] <= images[bad]
        assert all(n in BAD or lengths[n] > lengths[bad] or images[n] > images[bad] for n in between)
        assert record.kind == ("truncated", "not_an_image")[bad % 2]
    used = {id.split(":")[2] for item in items for row in item.ids for id in row.split("+")}
    assert not used & set(map(str, BAD))


def test_bad_records_change_nothing_but_their_own_places():
    """The rows hold what they would have held, save the replaced."""
    plan = numbers()
    for item in take(numbers(BAD), 12):
        swapped = {record.replaced_by: record.id for record in item.bad_records}
        for planned, row in zip(plan.row_ids(item.step), item.ids, strict=True):
            for was, now in zip(planned.split("+"), row.split("+"), strict=True):
                assert was == now or int(was.split(":")[2]) in BAD
        assert all(int(id.split(":")[2]) in BAD for id in swapped.values())


def test_bad_records_are_replaced_alike_everywhere():
    whole = take(numbers(BAD), 10)
    assert digest(take(numbers(BAD, workers=3), 10)) == digest(whole)
    assert digest(take(numbers(BAD, start_step=4), 6)) == digest(whole[4:])
    halves = [take(numbers(BAD, process_index=process, process_count=2), 10) for process in (0, 1)]
    for item, *parts in zip(whole, *halves, strict=True):
        assert item.ids == parts[0].ids + parts[1].ids
        assert np.array_equal(item.batch.images, np.concatenate([part.batch.images for part in parts]))
        assert item.bad_records == parts[0].bad_records + parts[1].bad_records


def test_bad_records_are_counted_by_kind_as_they_are_consumed():
    stream = numbers(BAD, workers=4)
    expected = {}
    for item in take(stream, 9):
        for record in item.bad_records:
            expected[record.kind] = expected.get(record.kind, 0) + 1
    assert {kind: count for kind, count in stream.bad_records.items() if count} == expected
    assert set(expected) == {"truncated", "not_an_image"}


def test_past_the_share_the_stream_stops_and_says_why():
    """Six records of forty are bad: more than a tenth, which shows once a tenth of 1,000 examples was bad."""
    stream, seen = numbers(BAD, max_bad_share=0.1), 0
    with pytest.raises(TrainingError, match=r"not_an_image.*truncated.*data.max_bad_share = 0.1; the last: numbers:"):
        for item in stream:
            seen += sum(row.count("+") + 1 for row in item.ids)
    assert 600 < seen < 720
    assert 101 <= sum(stream.bad_records.values()) < 115


def test_below_the_share_it_goes_on():
    assert len(take(numbers((3,), max_bad_share=0.05), 120)) == 120


def test_an_early_bad_record_does_not_stop_a_run():
    steps = [item.step for item in take(numbers(BAD, max_bad_share=0.02), 5)]
    assert steps == list(range(5))


def test_when_nothing_can_be_read_it_stops():
    with pytest.raises(TrainingError, match="no record of numbers can be read; the first: record"):
        take(numbers(tuple(range(40))), 1)


def test_a_source_that_raises_at_load_is_bad_too():
    class Broken(Numbers):
        def load(self, index, epoch):
            if index == 7 and epoch >= 1:
                raise DataError("the shard is gone", kind="missing")
            return super().load(index, epoch)

    config = DataConfig(sources={"numbers": SourceEntry("given")}, length=32, images=4, image_size=4, max_bad_share=1.0)
    items = take(make(config, sources={"numbers": Broken()}), 8)
    records = [record for item in items for record in item.bad_records]
    assert {record.kind for record in records} == {"missing"}
    assert all(record.id.endswith(":7") for record in records)


def test_an_example_that_has_grown_is_a_bad_record():
    class Growing(Numbers):
        def load(self, index, epoch):
            example = super().load(index, epoch)
            return Example(example.id, (*example.segments, Text("!" * epoch * (index == 5))))

    stream = numbers()
    stream._sources[0] = Growing()
    records = [record for item in take(stream, 9) for record in item.bad_records]
    assert {record.kind for record in records} == {"length_changed"}
    assert {record.id for record in records} == {f"numbers:{epoch}:5" for epoch in (1, 2, 3, 4)}


def test_examples_that_fit_no_row_are_counted_or_refused():
    settings = dataclasses.replace(CONFIG, length=60, phases=(), sources={"bind": CONFIG.sources["bind"]})
    with pytest.raises(InputError, match=r"examples of bind do not fit a row of 60 tokens.*raise data.length"):
        make(settings)
    lenient = make(dataclasses.replace(settings, length=81, max_bad_share=0.9))
    assert lenient.bad_records["too_long"] == int((lenient._lengths[0].tokens > 81).sum()) > 0
    assert all((item.batch.segment_ids > 0).any(axis=1).all() for item in take(lenient, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 9, "process_count": 2}, "batch_size 9 cannot be shared evenly by 2"),
        ({"process_index": 2, "process_count": 2}, "process 2 is not one of 2"),
        ({"rows": [0, 8]}, "the rows of a batch of 8 are 0 to 7"),
        ({"rows": []}, "the rows of a batch of 8 are 0 to 7"),
    ],
)
def test_processes_that_cannot_be_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": {}}, "name a data set"),
        ({"length": 1}, "length must be at least 2"),
        ({"max_bad_share": 1.5}, "between 0 and 1"),
        ({"workers": -1}, "workers must be 0 or more"),
    ],
)
def test_contradictions_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_unknown_kinds_and_settings_are_named():
    with pytest.raises(ConfigError, match="'digits_raed' is not a kind of data; did you mean digits_read"):
        make(DataConfig(sources={"a": SourceEntry("digits_raed")}))
    with pytest.raises(ConfigError, match=r"data.sources.a.options.shot is not a setting; did you mean shots"):
        make(DataConfig(sources={"a": SourceEntry("digits_read", options={"shot": 1})}))


def test_a_stream_that_is_left_early_leaves_no_thread():
    before = set(threading.enumerate())
    iterator = iter(make(workers=3))
    next(iterator)
    started = set(threading.enumerate()) - before
    assert len(started) == 3
    iterator.close()
    for thread in started:
        thread.join(timeout=20)
        assert not thread.is_alive()


def test_every_kind_of_source_is_listed_with_its_settings():
    for kind, (config, _) in DIGITS.items():
        assert kind in SOURCES
        options = {"count": 20}
        source = make_source(SourceEntry(kind, options=options), name="a", seed=0, image_size=32)
        assert len(source) == config(**options).count == 20
