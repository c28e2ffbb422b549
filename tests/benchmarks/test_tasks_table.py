"""docs/benchmarks.md says what the table of benchmarks says."""

from benchmarks import tasks_table
from mmjax.evaluation.benchmarks.table import BENCHMARKS


def test_the_page_is_that_of_the_table():
    assert tasks_table.TABLE.read_text(encoding="utf-8") == tasks_table.page(), (
        "write it anew: .venv/bin/python -m benchmarks.tasks_table"
    )


def test_every_benchmark_has_a_source_and_a_scale():
    for name, benchmark in BENCHMARKS.items():
        assert tasks_table.source_of(name)
        assert benchmark.chance is None or benchmark.chance >= 0
        assert tasks_table.scale_of(benchmark) in ("percent", "0 to 1", "0 to 10", "0 to 2000")
        assert (tasks_table.scale_of(benchmark) == "percent") == (benchmark.scale == 100)
