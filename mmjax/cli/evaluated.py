"""What `mmjax eval` evaluates: the model, and the tasks that it is asked."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from mmjax import __version__
from mmjax.core.config import nearest
from mmjax.core.errors import InputError
from mmjax.core.folders import local_path
from mmjax.data.config import DataConfig
from mmjax.evaluation.benchmark_questions import BenchmarkQuestions
from mmjax.evaluation.benchmarks.table import BENCHMARKS
from mmjax.evaluation.digit_questions import DigitQuestions
from mmjax.evaluation.models.model import EvaluatedModel
from mmjax.evaluation.models.released import ReleasedModel
from mmjax.evaluation.models.run import RunModel
from mmjax.evaluation.models.transformers_model import TransformersModel
from mmjax.evaluation.models.weights import digest_of_folder, digest_of_step
from mmjax.evaluation.questions import Questions
from mmjax.evaluation.rices import Embed
from mmjax.evaluation.robustness import robust_tasks
from mmjax.evaluation.settings import Options
from mmjax.evaluation.tasks import Task, choose_tasks, digit_tasks
from mmjax.evaluation.tower_questions import TowerQuestions, compares_texts
from mmjax.interop.pretrained import load_pretrained
from mmjax.training.load import LoadedRun


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A model, what its weights are, and whether all processes ask it together. `data`: of the run, if it is one."""

    model: EvaluatedModel
    weights: Callable[[], str]
    together: bool
    data: DataConfig | None = None


def evaluated_run(loaded: LoadedRun, mesh: Mesh) -> Evaluated:
    """A run of ours, on a mesh."""
    name = f"{loaded.workdir} at step {loaded.step}"
    model = RunModel(loaded.model, loaded.params, loaded.tokenizer, name=name, mesh=mesh)
    weights = functools.partial(digest_of_step, loaded.workdir, loaded.step)
    return Evaluated(model, weights, together=True, data=loaded.config.data)


def evaluated_folder(address: str) -> Evaluated:
    """A folder in the layout of transformers, by our code or ("hf:DIR") by theirs; each process has it whole."""
    theirs = address.startswith("hf:")
    folder = local_path(address.removeprefix("hf:"))
    if not (folder / "config.json").is_file():
        raise InputError(f"--model {address}: {folder} has no config.json; give a folder in the layout of transformers")
    model = TransformersModel(folder) if theirs else ReleasedModel(load_pretrained(folder))
    return Evaluated(model, functools.partial(digest_of_folder, folder), together=False)


def asked_tasks(
    names: Sequence[str], options: Options, evaluated: Evaluated, arguments: argparse.Namespace
) -> list[Questions]:
    """The tasks of these names, or all digit tasks of a run.

    Raises:
      InputError: as `known_tasks`, or a benchmark's files are not as they should be.
    """
    digits, folders = known_tasks(names, evaluated.data, arguments.data or ())
    embed, _ = encoder_of(evaluated, arguments.encoder)
    made: list[Questions] = []
    for name in names or digits:
        if name in digits:
            made.append(DigitQuestions(choose_tasks(digits, [name])[0], options, embed))
            continue
        cache = local_path(arguments.cache) if arguments.cache else folders[name] / ".mmjax"
        made.append(_benchmark(BENCHMARKS[name], folders[name], cache, options, evaluated, arguments))
        made += _corrupted(BENCHMARKS[name], folders[name], cache, options, evaluated, arguments)
    return made


def known_tasks(
    names: Sequence[str], data: DataConfig | None, given: Sequence[str]
) -> tuple[dict[str, Task], dict[str, Path]]:
    """The digit tasks of a run's data, and the folders of those benchmarks that are named.

    Raises:
      InputError: a name that is neither, a benchmark without a folder, or nothing to evaluate.
    """
    digits = digit_tasks(data) if data is not None else {}
    known = {**digits, **BENCHMARKS}
    for name in names:
        if name not in known:
            raise InputError(f"there is no task {name!r}{nearest(name, known)}; mmjax eval --list names them")
    if not names and not digits:
        raise InputError("say which benchmarks: --task NAME (mmjax eval --list names them)")
    return digits, data_folders(given, [name for name in names if name in BENCHMARKS])


def _corrupted(benchmark, folder, cache, options, evaluated, arguments) -> list[Questions]:
    """The benchmark under the corruptions that are asked for, without further controls."""
    if arguments.robustness is None:
        return []
    kinds = [kind for kind in arguments.robustness.split(",") if kind]
    plain = dataclasses.replace(options, controls=())
    return [_benchmark(one, folder, cache, plain, evaluated, arguments) for one in robust_tasks(benchmark, kinds)[1:]]


def _benchmark(benchmark, folder, cache, options, evaluated, arguments) -> Questions:
    """By two towers where the benchmark is for these; its classes can be ranked by other models too."""
    further = {"cache": cache}
    towers = benchmark.method in ("classes", "retrieval") and arguments.method is None
    if towers and (benchmark.method == "retrieval" or compares_texts(evaluated.model)):
        return TowerQuestions(benchmark, folder, options, model=evaluated.model, encoder=evaluated.weights, **further)
    embed, encoder = encoder_of(evaluated, arguments.encoder)
    return BenchmarkQuestions(
        benchmark, folder, options, embed=embed, encoder=encoder, method=arguments.method, **further
    )


def tasks_while_training(
    names: Sequence[str], options: Options, data: DataConfig, folders: Sequence[str], embed: Embed
) -> Callable[[], list[Questions]]:
    """The tasks of a run that is training, whose names and files are checked now. Vectors of pictures are not kept.

    Raises:
      InputError: as `asked_tasks`, or a benchmark that only two towers can answer.
    """
    chosen = [BENCHMARKS[name] for name in names if name in BENCHMARKS]
    others = [name for name in names if name not in BENCHMARKS]
    digits = choose_tasks(digit_tasks(data), others) if others or not chosen else []
    where = data_folders(folders, [benchmark.name for benchmark in chosen])
    for benchmark in chosen:
        if benchmark.method == "retrieval":
            raise InputError(f"{benchmark.name} compares the vectors of two towers, which this run has not")
    # Files are read once; the vectors of pictures change with the model.
    kept = [dataclasses.replace(benchmark, read=functools.cache(benchmark.read)) for benchmark in chosen]

    def tasks() -> list[Questions]:
        further = {"embed": embed, "encoder": str, "cache": None}
        return [
            *(DigitQuestions(task, options, embed) for task in digits),
            *(BenchmarkQuestions(one, where[one.name], options, **further) for one in kept),
        ]

    tasks()
    return tasks


def data_folders(given: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    """The folder of each benchmark, from `DIR` for all or `NAME=DIR`.

    Raises:
      InputError: one has none, or it is not there.
    """
    named = dict(one.split("=", 1) for one in given if "=" in one and one.split("=", 1)[0] in BENCHMARKS)
    plain = [one for one in given if one.split("=", 1)[0] not in named]
    folders = {}
    for name in names:
        if name not in named and not plain:
            raise InputError(f"{name} reads {BENCHMARKS[name].files}: give the folder, --data DIR")
        folders[name] = local_path(named.get(name) or plain[-1])
        if not folders[name].is_dir():
            raise InputError(f"--data {folders[name]} is not a folder")
    return folders


def encoder_of(evaluated: Evaluated, address: str | None) -> tuple[Embed, Callable[[], str]]:
    """Vectors of pictures by another encoder's folder, or by the model itself; and what its weights are."""
    other = evaluated if address is None else None

    @functools.cache
    def opened() -> Evaluated:
        return other or evaluated_folder(address)

    def embed(pictures: Sequence[Any]):
        return opened().model.embed_pictures(pictures, progress=lambda count: None)

    return embed, lambda: opened().weights()


def described(evaluated: Evaluated, tasks: Sequence[Questions], options: Options, arguments: Any) -> Mapping[str, Any]:
    """What evaluation.json says: all that the predictions depend on (how many broken pictures are borne is not)."""
    asked = dataclasses.asdict(options)
    del asked["max_bad_share"]
    return {
        "mmjax": __version__,
        "model": evaluated.model.name,
        "weights": evaluated.weights(),
        "tasks": {task.name: task.digest() for task in tasks},
        "options": asked,
        "method": arguments.method,
        "encoder": arguments.encoder,
    }
