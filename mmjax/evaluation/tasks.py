"""Tasks: which episodes are asked, and how their answers are judged. Those of the digit scans are made here.

Train and test share one layout: a task's source is that of training, with its own settings but for the split, the
shots, the ways, the classes and the rotation that the task is about.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from mmjax.core.config import nearest
from mmjax.core.errors import InputError
from mmjax.core.example import Media
from mmjax.data.config import DataConfig
from mmjax.data.digits import SCENE_KINDS, BindConfig, Pick, ReadConfig
from mmjax.data.episode import Episode
from mmjax.data.scans import Scans
from mmjax.data.sources.kinds import SOURCES
from mmjax.evaluation.rices import Embed, most_similar
from mmjax.evaluation.settings import Selection

DIGITS = tuple(range(10))

# Passes over the scans that belong to each seed.
_PASSES = 1000


@dataclasses.dataclass(frozen=True)
class Task:
    """A named question put to a model.

    episodes: (shots, seed, queries[, pick]) -> at most so many episodes, a pure function of these three.
    answers: "open" asks that greedy decoding writes the answer exactly; "ranked" that the answer is the most probable
      of the episode's candidates.
    shots: the numbers of demonstrations (of each class) to try when none are named. A task that does not `take_shots`
      keeps to them.
    control_shots: at which of them the controls are run.
    queries, control_queries: at most so many a seed.
    selection: how its episodes pick demonstrations. `pick`: for another way of doing so, what `episodes` takes as a
      fourth argument; None where there is no other.
    """

    name: str
    episodes: Callable[..., Sequence[Episode]]
    answers: Literal["open", "ranked"] = "open"
    shots: tuple[int, ...] = (0,)
    takes_shots: bool = False
    control_shots: int = 0
    queries: int = 360
    control_queries: int = 60
    selection: Selection = "random"
    pick: Callable[[Selection, Embed], Pick | None] | None = None


def choose_tasks(tasks: Mapping[str, Task], names: Sequence[str]) -> list[Task]:
    """The tasks of these names, all of them where none is given.

    Raises:
      InputError: no task of that name.
    """
    for name in names:
        if name not in tasks:
            raise InputError(f"there is no task {name!r}{nearest(name, tasks)}")
    return [tasks[name] for name in names] if names else list(tasks.values())


def digit_tasks(data: DataConfig) -> dict[str, Task]:
    """The tasks over the digit scans that are held out from the training data `data`; a kind not trained has none.

    read_single, read_interleaved: the digit of a picture by itself, and of the last of a row of four that shows the
      digits of the first three.
    read_scene_KIND: one kind of question about scenes of several digits.
    bind_2way, bind_5way: new words for digits, from shots of each. bind_2way_heldout: of digits for which no word was
      ever bound in training; bind_2way_rotated: of scans turned by 90 degrees, which were never seen at all. Where
      several sources bind words, they are asked as the one with the most shots does.
    """
    configs: dict[str, list[Any]] = {}
    for name, entry in data.sources.items():
        if entry.kind in SOURCES:
            config = entry.settings(name)
            configs.setdefault(entry.kind, []).append(config)
    tasks = [
        task
        for kind, make in (("digits_read", _read_tasks), ("digits_scene", _scene_tasks), ("digits_bind", _bind_tasks))
        if kind in configs
        for task in make(configs[kind], data.image_size)
    ]
    return {task.name: task for task in tasks}


def _read_tasks(configs: Sequence[ReadConfig], image_size: int) -> list[Task]:
    def task(name, before):
        config = dataclasses.replace(configs[0], split="test", shots=(before,))
        return Task(name, functools.partial(_episodes, "digits_read", name, config, image_size))

    return [task("read_single", 0), task("read_interleaved", 3)]


def _scene_tasks(configs, image_size) -> list[Task]:
    def task(kind):
        name = f"read_scene_{kind}"
        config = dataclasses.replace(configs[0], split="test", kinds=(kind,), questions=1, shots=(0,))
        return Task(name, functools.partial(_episodes, "digits_scene", name, config, image_size), queries=120)

    asked = {kind for config in configs for kind in config.kinds}
    return [task(kind) for kind in SCENE_KINDS if kind in asked]


def _bind_tasks(configs: Sequence[BindConfig], image_size: int) -> list[Task]:
    bound = tuple(sorted({digit for config in configs for digit in config.classes}))
    never = tuple(digit for digit in DIGITS if digit not in bound)
    longest = max(configs, key=lambda config: max(config.shots))

    def task(name, *, shots, queries=360, **changes):
        config = dataclasses.replace(longest, split="test", **changes)
        return Task(
            name,
            functools.partial(_bind_episodes, name, config, image_size),
            "ranked",
            shots,
            takes_shots=True,
            control_shots=4,
            queries=queries,
            selection="balanced",
            pick=functools.partial(_bind_pick, config, image_size),
        )

    tasks = [task("bind_2way", shots=(0, 1, 2, 4, 8), ways=(2,), classes=bound)]
    if len(bound) >= 5:
        tasks.append(task("bind_5way", shots=(4,), queries=120, ways=(5,), classes=bound))
    if len(never) >= 2:
        tasks.append(task("bind_2way_heldout", shots=(4,), ways=(2,), classes=never))
    tasks.append(task("bind_2way_rotated", shots=(4,), queries=120, ways=(2,), classes=DIGITS, rotation=90))
    return tasks


def _bind_pick(config: BindConfig, image_size: int, selection: Selection, embed: Embed) -> Pick | None:
    """Shots from all scans of an episode's classes, where not so many of each are wanted ("balanced")."""
    if selection == "balanced":
        return None
    if selection == "random":
        return lambda pool, query, count, dice: dice.sample(pool, count)
    scans = Scans(config, image_size)
    vectors = embed([Media((functools.partial(scans.picture, scan, (scan,)),)) for scan in range(len(scans))])
    return lambda pool, query, count, dice: most_similar(vectors[query], vectors, pool, count)


def _bind_episodes(name, config, image_size, shots, seed, queries, pick=None) -> list[Episode]:
    scans = Scans(config, image_size)
    fewest = min(len(places) for places in scans.of_class.values())
    if shots >= fewest:
        raise InputError(f"{name} has {fewest} held-out scans of a digit, so at most {fewest - 1} shots, not {shots}")
    config = dataclasses.replace(config, shots=(shots,))
    return _episodes("digits_bind", name, config, image_size, shots, seed, queries, pick)


@functools.lru_cache(maxsize=64)
def _source(kind, name, config, image_size):
    """One source for all seeds and controls, which so draw each scan once."""
    return SOURCES[kind][1](config, name=name, seed=0, image_size=image_size)


def _episodes(kind, name, config, image_size, shots, seed, queries, pick=None) -> list[Episode]:
    """Each seed asks every held-out scan at most once: its episodes are of passes over the scans that are its own."""
    source = _source(kind, f"{name}/{shots}", config, image_size)
    scans = len(Scans(config, image_size))
    if kind != "digits_scene":  # a scene has no scan of its own
        queries = min(queries, scans)
    first = seed * _PASSES * scans
    further = {} if pick is None else {"pick": pick}
    return [source.episode(first + number, **further) for number in range(queries)]
