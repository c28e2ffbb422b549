"""The table of benchmarks, by name."""

from __future__ import annotations

from mmjax.evaluation.benchmark import Benchmark
from mmjax.evaluation.benchmarks.binding import BINDING
from mmjax.evaluation.benchmarks.captions import CAPTIONS
from mmjax.evaluation.benchmarks.choices import CHOICES
from mmjax.evaluation.benchmarks.classes import CLASSES
from mmjax.evaluation.benchmarks.documents import DOCUMENTS
from mmjax.evaluation.benchmarks.retrieval import RETRIEVAL
from mmjax.evaluation.benchmarks.statements import STATEMENTS
from mmjax.evaluation.benchmarks.vqa import VQA
from mmjax.evaluation.benchmarks.yes_no import YES_NO

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        *CAPTIONS,
        *VQA,
        *DOCUMENTS,
        *STATEMENTS,
        *CLASSES,
        *RETRIEVAL,
        *YES_NO,
        *CHOICES,
        *BINDING,
    )
}
