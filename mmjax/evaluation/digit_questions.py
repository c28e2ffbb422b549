"""The tasks over the digit scans as questions of the harness."""

from __future__ import annotations

import collections
import functools
from collections.abc import Sequence

from mmjax.data.episode import Episode, Turn, answer_segment, question_segments
from mmjax.evaluation.controls import applies, controlled
from mmjax.evaluation.question import Form, Part, Query, Reply
from mmjax.evaluation.questions import Decode, Judged
from mmjax.evaluation.rices import Embed
from mmjax.evaluation.settings import Options, Setting
from mmjax.evaluation.tasks import Task


class DigitQuestions:
    """Questions of one task; `embed` gives the vectors of pictures by which "rices" picks demonstrations."""

    chunk = (4096, 1 << 16)
    pictured = True
    official = None

    def __init__(self, task: Task, options: Options, embed: Embed):
        self.name = task.name
        self._task, self._options, self._embed = task, options, embed

    def settings(self) -> list[Setting]:
        """Every number of shots and selection without a control, and the controls where pictures matter most."""
        task, options = self._task, self._options
        tried = sorted(set(options.shots)) if options.shots and task.takes_shots else list(task.shots)
        selections = options.selections if options.selections and task.pick else (task.selection,)
        settings = []
        for selection in selections:
            once = selection != selections[0]  # without shots there is nothing to pick
            here = [Setting(task.name, shots, selection) for shots in tried if shots or not once]
            own = task.control_shots if task.control_shots in tried else max(tried)
            for control in options.controls:
                at = tried if options.control_shots == "all" else [own]
                here += [
                    Setting(task.name, shots, selection, control)
                    for shots in at
                    if control != "none" and self._can(control, shots) and (shots or not once)
                ]
            settings += here
        return settings

    def _can(self, control, shots):
        before = shots if self._task.takes_shots else len(self._task.episodes(shots, 0, 1)[0].demonstrations)
        return applies(control, before)

    def seeds(self, setting: Setting) -> int:
        """Each seed has queries of its own."""
        return self._options.seeds

    def count(self, setting: Setting) -> int:
        """How many queries a seed has."""
        return len(self._episodes(setting, 0))

    def make(self, setting: Setting, seed: int, number: int, decode: Decode) -> Query:
        """Query `number` of a seed."""
        episode, ranked = self._episodes(setting, seed)[number], self._task.answers == "ranked"
        form = Form(
            tuple(_part(f"{episode.id}/{place}", turn) for place, turn in enumerate(episode.demonstrations)),
            _part(episode.id, episode.query),
        )
        return Query(
            setting,
            seed,
            episode.id,
            (controlled(form, setting.control, episode.id),),
            "rank" if ranked else "exact",
            (episode.query.answer,),
            functools.partial(_is, episode.query.answer if ranked else form.query.write(episode.query.answer).text),
            candidates=episode.candidates if ranked else (),
        )

    def digest(self) -> str:
        """The task and its numbers; the scans come with the library."""
        return repr((self._task.name, self._task.queries, self._task.control_queries))

    def chance(self, judged: Sequence[Judged]) -> float:
        """1 / candidates, or the share of the most frequent answer."""
        if self._task.answers == "ranked":
            return sum(1 / one.candidates for one in judged) / len(judged)
        return max(collections.Counter(one.answer for one in judged).values()) / len(judged)

    @functools.lru_cache(maxsize=64)  # noqa: B019 (as long as the questions are asked)
    def _episodes(self, setting: Setting, seed: int) -> Sequence[Episode]:
        task, most = self._task, self._options.queries
        planned = task.queries if setting.control == "none" else task.control_queries
        queries = planned if most is None else min(most, planned)
        if setting.selection == task.selection:
            return task.episodes(setting.shots, seed, queries)
        return task.episodes(setting.shots, seed, queries, self._pick(setting.selection))

    @functools.lru_cache(maxsize=8)  # noqa: B019
    def _pick(self, selection):
        return self._task.pick(selection, self._embed)


def _part(name: str, turn: Turn) -> Part:
    return Part(name, question_segments(turn), turn.answer, functools.partial(answer_segment, turn))


def _is(text: str, reply: Reply) -> float:
    return float(reply.text == text)
