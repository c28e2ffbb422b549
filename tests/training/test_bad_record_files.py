"""The records that several processes could not use: each has a file, and the report reads them all."""

from mmjax.data.stream import BadRecord
from mmjax.reporting.workdir import read_run
from mmjax.training.metrics import RunLog


def record(name):
    return BadRecord(name, "truncated", "cut off", "other:0:1")


def log(workdir, process, processes, *, resume_step=0):
    return RunLog(workdir, resume_step=resume_step, process=process, processes=processes)


def test_the_records_of_all_processes_are_read_and_each_counts_once(tmp_path):
    first, second = log(tmp_path, 0, 2), log(tmp_path, 1, 2)
    first.bad_records(1, [record("a:0:1")])
    second.bad_records(1, [record("a:0:1"), record("a:0:2")])  # one row is on devices of both
    second.bad_records(3, [record("a:0:1")])
    first.close()
    second.close()
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["bad_records-1.jsonl", "bad_records.jsonl"]
    bad = read_run(tmp_path).bad_records
    assert sorted((row["step"], row["id"]) for row in bad) == [(1, "a:0:1"), (1, "a:0:2"), (3, "a:0:1")]


def test_a_run_resumed_by_fewer_processes_drops_what_the_others_wrote_after_that_step(tmp_path):
    second = log(tmp_path, 1, 2)
    second.bad_records(1, [record("a:0:1")])
    second.bad_records(3, [record("a:0:2")])
    second.close()
    log(tmp_path, 0, 1, resume_step=2).close()
    assert [row["step"] for row in read_run(tmp_path).bad_records] == [1]


def test_what_no_step_reads_is_listed_once_for_a_run(tmp_path):
    for again in range(2):  # a run that begins again has its own alone
        first, second = log(tmp_path, 0, 2), log(tmp_path, 1, 2)
        for each in (first, second):
            each.left_out([record("a:0:1"), record(f"a:0:{5 + again}")])
        first.bad_records(3, [record("a:0:9")])
        first.close()
        second.close()
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["bad_records.jsonl"]
    log(tmp_path, 0, 1, resume_step=2).close()
    assert [(row["step"], row["id"]) for row in read_run(tmp_path).bad_records] == [(0, "a:0:1"), (0, "a:0:6")]


def test_nothing_left_out_is_no_file(tmp_path):
    run = log(tmp_path, 0, 1)
    run.left_out([])
    run.close()
    assert not list(tmp_path.glob("*.jsonl"))
