"""Write a run's report page: curves, gates, scores, held-out episodes, and where an answer looked in its picture."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from mmjax.core.errors import CheckpointError, InputError
from mmjax.data.config import DataConfig
from mmjax.data.sources.kinds import DIGITS
from mmjax.data.stream import BatchStream
from mmjax.evaluation.files import score_table, write_samples
from mmjax.evaluation.tasks import digit_tasks
from mmjax.reporting.attention import AttentionMap, answer_places, attention_maps
from mmjax.reporting.report import write_report
from mmjax.training.load import LoadedRun, find_run, load_run, read_config, usable_mesh

# Held-out rows that are looked at for attention maps, and the maps drawn.
ROWS, MAPS = 12, 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmjax report`."""
    parser.add_argument("--workdir", required=True, metavar="DIR", help="the workdir of a run")
    parser.add_argument("--json", action="store_true", help="print the paths as JSON")


def run(options: argparse.Namespace) -> int:
    """Writes the report; returns the exit code."""
    workdir, _ = find_run(options.workdir)
    loaded, maps = None, []
    try:
        loaded = load_run(workdir, usable_mesh(read_config(workdir)))
        maps = _attention(loaded)
    except (CheckpointError, InputError) as error:  # the data may lie elsewhere
        print(f"warning: {error}; the report has no attention maps", file=sys.stderr)
    page = write_report(workdir, attention=maps)
    checkpoint = loaded and str(workdir / "checkpoints" / str(loaded.step))
    if options.json:
        print(json.dumps({"report": str(page), "checkpoint": checkpoint}))
        return 0
    scores = workdir / "scores.json"
    if scores.is_file():
        print(score_table(json.loads(scores.read_text(encoding="utf-8"))), end="\n\n")
    print(f"report:     {page}")
    print(f"checkpoint: {checkpoint or 'none'}")
    tasks = digit_tasks(read_config(workdir).data)
    if loaded and "bind_2way" in tasks:
        sample = write_samples(workdir, tasks["bind_2way"])
        print(f"next:       mmjax generate --checkpoint {workdir} {sample.arguments(Path.cwd())}")
        print(f'            (the answer is "{sample.answer}")')
    return 0


def _attention(loaded: LoadedRun) -> list[AttentionMap]:
    """Maps of answers in rows of held-out examples, laid out as the rows of training are; a resampler is needed."""
    if loaded.config.model.family != "flamingo" or loaded.model.config.resampler is None:
        return []
    data = held_out(loaded.config.data)
    stream = BatchStream(data, loaded.tokenizer, batch_size=ROWS, seed=loaded.config.seed, workers=0)
    batch = stream.read(0).batch
    return attention_maps(
        loaded.model, loaded.params, batch, answer_places(batch, loaded.tokenizer, MAPS), loaded.tokenizer
    )


def held_out(data: DataConfig) -> DataConfig:
    """The same data, of digits the scans that training never saw, all data sets at their own weights."""
    sources = {
        name: dataclasses.replace(entry, options={**entry.options, "split": "test"}) if entry.kind in DIGITS else entry
        for name, entry in data.sources.items()
    }
    return dataclasses.replace(data, sources=sources, phases=())
