"""The few-shot harness: tasks x shots x seeds, with and without their pictures, to scores and predictions."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypedDict

import flax.linen as nn
import numpy as np
from jax.sharding import Mesh

from mmjax.core.arrays import Array
from mmjax.core.errors import InputError
from mmjax.core.example import Media, Text
from mmjax.core.progress import progress_bar
from mmjax.data.episode import Episode, answer_segment, prompt_segments, question_segments
from mmjax.data.keyed import Dice, key_of
from mmjax.data.show import picture_uri
from mmjax.decoding.prompt import Prompt, as_text
from mmjax.decoding.scoring import Continuations, score_continuations
from mmjax.evaluation.metrics import interval
from mmjax.evaluation.tasks import Task
from mmjax.text.tokenizer import Tokenizer

# What is shown in the place of the pictures: themselves, black ones, or those of other places of the prompt.
Images = Literal["shown", "blanked", "shuffled"]

# Of each task and number of shots, this many right and as many wrong predictions keep their pictures.
PICTURED = 3


class Score(TypedDict):
    """A row of scores.json. `score`, the ends of its 95% interval, and `chance` are shares of right answers.

    `chance` is what can be had without looking: 1 / candidates, or the share of the most frequent answer.
    """

    task: str
    shots: int
    selection: str
    images: Images
    score: float
    low: float
    high: float
    n: int
    seeds: int
    chance: float


class Evaluation(NamedTuple):
    """`rows`: one a task, number of shots and kind of images. `predictions`: one a query, rows of predictions.jsonl."""

    rows: list[Score]
    predictions: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class _Setting:
    task: Task
    shots: int
    images: Images


@dataclasses.dataclass(frozen=True)
class _Query:
    setting: _Setting
    seed: int
    episode: Episode
    prompt: Prompt
    answers: tuple[Text, ...]


def evaluate(
    model: nn.Module,
    params: Mapping[str, Array],
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    *,
    shots: Sequence[int] = (),
    seeds: int = 3,
    queries: int | None = None,
    controls: Sequence[Images] = ("blanked",),
    mesh: Mesh | None = None,
    progress: bool = True,
) -> Evaluation:
    """Scores `model` with `params` (by path) on every task; the same arguments give the same result.

    Args:
      shots: numbers of demonstrations of each class instead of the tasks' own, for the tasks that take any.
      queries: at most so many a seed, instead of the tasks' own numbers.
      controls: also score each task, at one number of shots, with its pictures "blanked" or "shuffled" among the
        places of each prompt (where there are several).
      progress: whether to draw a bar on a terminal.

    Raises:
      InputError: no seeds, negative shots, or more shots than a task has scans for.
    """
    if seeds < 1 or min(shots, default=0) < 0 or (queries is not None and queries < 1):
        raise InputError(f"evaluation needs seeds >= 1, shots >= 0 and queries >= 1, not {seeds}, {shots}, {queries}")
    asked = [
        query
        for setting in _settings(tasks, shots, controls)
        for seed in range(seeds)
        for query in _queries(setting, seed, queries)
    ]
    with progress_bar(total=len(asked), what="evaluate", unit="query") as bar:
        bar.disable |= not progress
        scored = score_continuations(
            model,
            params,
            tokenizer,
            [query.prompt for query in asked],
            [query.answers for query in asked],
            mesh=mesh,
            on_scored=bar.update,
        )
    return _results(asked, scored, tokenizer)


def _settings(tasks, shots, controls) -> list[_Setting]:
    settings = []
    for task in tasks:
        tried = sorted(set(shots)) if shots and task.takes_shots else task.shots
        settings += [_Setting(task, number, "shown") for number in tried]
        # The control is run where the pictures matter most among what is tried.
        control = task.control_shots if task.control_shots in tried else max(tried)
        settings += [_Setting(task, control, images) for images in controls if images != "shown"]
    return settings


def _queries(setting: _Setting, seed: int, most: int | None) -> list[_Query]:
    task = setting.task
    planned = task.queries if setting.images == "shown" else task.control_queries
    made, blank = [], None
    for episode in task.episodes(setting.shots, seed, planned if most is None else min(most, planned)):
        prompt = Prompt(prompt_segments(episode))
        if setting.images == "shuffled" and len(prompt.media) < 2:
            return []
        if setting.images == "blanked":
            blank = blank or _blank(prompt.media[0])
            prompt = _with_media(prompt, [blank] * len(prompt.media))
        elif setting.images == "shuffled":
            prompt = _with_media(prompt, _shuffled(prompt.media, episode.id))
        candidates = episode.candidates if task.answers == "ranked" else (episode.query.answer,)
        answers = tuple(answer_segment(episode.query, candidate) for candidate in candidates)
        made.append(_Query(setting, seed, episode, prompt, answers))
    return made


def _blank(medium: Media) -> Media:
    return Media(tuple(np.zeros_like(frame) for frame in medium.load()))


def _shuffled(media, name):
    """Each place gets the picture of another: all are moved on by the same number of places."""
    moved = 1 + Dice(key_of("shuffled", name)).below(len(media) - 1)
    return [*media[moved:], *media[:moved]]


def _with_media(prompt: Prompt, media: Sequence[Media]) -> Prompt:
    new = iter(media)
    return Prompt(tuple(next(new) if isinstance(segment, Media) else segment for segment in prompt.segments))


def _results(asked: Sequence[_Query], scored: Sequence[Continuations], tokenizer: Tokenizer) -> Evaluation:
    groups: dict[_Setting, dict[int, list[bool]]] = {}
    pictured: collections.Counter = collections.Counter()
    predictions = []
    for query, scores in zip(asked, scored, strict=True):
        prediction = _prediction(query, scores, tokenizer)
        groups.setdefault(query.setting, {}).setdefault(query.seed, []).append(prediction["correct"])
        place = (query.setting, prediction["correct"])
        if query.setting.images == "shown" and pictured[place] < PICTURED:
            pictured[place] += 1
            _draw(prediction, query.episode)
        predictions.append(prediction)
    answers: dict[_Setting, list[_Query]] = collections.defaultdict(list)
    for query in asked:
        answers[query.setting].append(query)
    rows = [_row(setting, list(by_seed.values()), answers[setting]) for setting, by_seed in groups.items()]
    return Evaluation(rows, predictions)


def _row(setting: _Setting, by_seed: Sequence[Sequence[bool]], asked: Sequence[_Query]) -> Score:
    correct = np.array(by_seed, np.float64)
    score, low, high = interval(correct)
    return Score(
        task=setting.task.name,
        shots=setting.shots,
        selection="random",
        images=setting.images,
        score=round(score, 6),
        low=round(low, 6),
        high=round(high, 6),
        n=correct.size,
        seeds=len(correct),
        chance=round(_chance(setting.task, asked), 6),
    )


def _chance(task, asked):
    if task.answers == "ranked":
        return float(np.mean([1 / len(query.episode.candidates) for query in asked]))
    return max(collections.Counter(query.episode.query.answer for query in asked).values()) / len(asked)


def _prediction(query: _Query, scores: Continuations, tokenizer: Tokenizer) -> dict[str, Any]:
    episode, ranked = query.episode, query.setting.task.answers == "ranked"
    if ranked:
        answer = episode.candidates[scores.best]
        likelihoods = {
            candidate: round(float(value), 4)
            for candidate, value in zip(episode.candidates, scores.log_likelihoods, strict=True)
        }
    else:
        answer, likelihoods = _written(scores, episode.query.answer, tokenizer), None
    return {
        "task": query.setting.task.name,
        "shots": query.setting.shots,
        "seed": query.seed,
        "images": query.setting.images,
        "id": episode.id,
        "prompt": str(query.prompt),
        "demonstrations": [{"text": _turn_text(turn), "image": None} for turn in episode.demonstrations],
        "image": None,
        "answer": episode.query.answer,
        "prediction": answer,
        "correct": answer == episode.query.answer if ranked else scores.is_greedy(0),
        "candidates": likelihoods,
    }


def _written(scores, answer, tokenizer):
    """What greedy decoding writes, as far as is known: up to the first token that is not the answer's."""
    if scores.is_greedy(0):
        return answer
    first = int(np.argmax(scores.tokens[0] != scores.greedy_tokens[0]))
    return tokenizer.decode(scores.greedy_tokens[0][: first + 1]).strip().removesuffix(".")


def _turn_text(turn):
    asked = [segment for segment in question_segments(turn) if isinstance(segment, Text)]
    return as_text([*asked, answer_segment(turn, turn.answer)])


def _draw(prediction, episode):
    turns = [*episode.demonstrations, episode.query]
    places = [*prediction["demonstrations"], prediction]
    for turn, place in zip(turns, places, strict=True):
        if turn.media is not None:
            place["image"] = picture_uri(turn.media.load()[0])
