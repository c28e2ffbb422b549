"""The class that lmms-eval loads as `--model mmjax`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from mmjax.cli.evaluated import evaluated_folder, evaluated_run
from mmjax.core.errors import InputError
from mmjax.core.example import Text
from mmjax.core.progress import progress_bar
from mmjax.evaluation.models.model import EvaluatedModel
from mmjax.training.load import find_run, load_run, read_config, usable_mesh
from third_party.lmms_eval.requests import Group, Writing, groups_of, is_beginning, prompt_of, writing_of

T = TypeVar("T")


class MMJax(lmms):
    """A model of ours, as lmms-eval calls it (a "simple" one: contexts and pictures).

    pretrained: a folder in the layout of transformers, or a run of ours (a workdir, or one step of its checkpoints).
    batch_size: so many requests are handed to the model together. template: what stands around each context, with
    {context} and perhaps <image> where the pictures belong. device: JAX chooses it; only None is taken.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        template: str = "{context}",
        device: str | None = None,
        max_batch_size: int | None = None,
    ):
        super().__init__()
        if device is not None:
            raise InputError(f"device {device} cannot be given to mmjax: JAX chooses it (JAX_PLATFORMS=cpu, cuda, tpu)")
        if "{context}" not in template:
            raise InputError(f"the template {template!r} must hold {{context}}")
        self.batch_size = max(1, int(batch_size)) if str(batch_size).isdigit() else max_batch_size or 32
        self.template = template
        self.model = open_model(pretrained)

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """The answer to each request, by greedy writing or beam search.

        Raises:
          InputError: a request asks for sampling, or holds something else than pictures.
        """
        asked = [(context, settings, visuals, place) for context, settings, visuals, *place in _arguments(requests)]
        order = sorted(range(len(asked)), key=lambda number: repr(sorted(asked[number][1].items(), key=str)))
        answers: dict[int, str] = {}
        with progress_bar(total=len(asked), what="write", unit="request") as bar:
            for writing, same in itertools.groupby(order, lambda number: writing_of(asked[number][1])):
                for numbers in _parts(list(same), self.batch_size):
                    prompts = [self._prompt(*asked[number][::2], *asked[number][3]) for number in numbers]
                    answers.update(zip(numbers, self._write(prompts, writing, bar.update), strict=True))
        told = [answers[number] for number in range(len(asked))]
        for (context, settings, _, _), text in zip(asked, told, strict=True):
            self.cache_hook.add_partial("generate_until", (context, settings), text)
        return told

    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """The loss of each continuation, the mean of -log p over its tokens, and whether greedy writing begins with it.

        In spite of its name: lmms-eval's own models give the loss, and its tasks choose the smallest. The pair comes
        wrapped, since lmms-eval 0.7 makes a text of a bare one before it scores it.

        Raises:
          InputError: a request holds something else than pictures, or a continuation without a token.
        """
        arguments = _arguments(requests)
        told: dict[int, GenerationResult] = {}
        with progress_bar(total=len(arguments), what="rate", unit="request") as bar:
            for groups in _parts(list(groups_of(arguments, self._doc)), self.batch_size):
                told.update(self._rate(groups))
                bar.update(sum(len(group.numbers) for group in groups))
        return [told[number] for number in range(len(arguments))]

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Raises NotImplementedError: conversations of several rounds are not asked of mmjax."""
        raise NotImplementedError("mmjax answers single questions; this task asks several rounds")

    def _rate(self, groups: Sequence[Group]) -> Iterator[tuple[int, GenerationResult]]:
        prompts = [prompt_of(group.context, group.visuals(), self.template) for group in groups]
        texts = [[Text(text) for text in group.continuations] for group in groups]
        for prompt, group, rated in zip(
            prompts, groups, self.model.rate(prompts, texts, progress=lambda count: None), strict=True
        ):
            # What greedy writing says is one text for all continuations of a prompt.
            written = rated.written or self._write([prompt], Writing(max(rated.lengths), (), 1)) * len(group.numbers)
            losses = -rated.log_likelihoods / np.array(rated.lengths)
            for number, loss, text, greedy in zip(group.numbers, losses, group.continuations, written, strict=True):
                yield number, GenerationResult((float(loss), is_beginning(text, greedy)))

    def _write(self, prompts, writing: Writing, progress=lambda count: None) -> list[str]:
        return self.model.write(
            prompts, max_tokens=writing.max_tokens, stop=writing.stop, beams=writing.beams, progress=progress
        )

    def _prompt(self, context, to_visual, number, task, split):
        return prompt_of(context, to_visual(self._doc(task, split, number)) or (), self.template)

    def _doc(self, task: str, split: str, number: int) -> Any:
        return self.task_dict[task][split][number]


def open_model(pretrained: str) -> EvaluatedModel:
    """The model of a folder in the layout of transformers, or of a run.

    Raises:
      InputError: it is neither.
    """
    if _is_released(Path(pretrained)):
        return evaluated_folder(pretrained).model
    workdir, _ = find_run(pretrained)
    mesh = usable_mesh(read_config(workdir))
    return evaluated_run(load_run(pretrained, mesh), mesh).model


def _is_released(folder: Path) -> bool:
    """Whether it has weights beside its config.json; a run's lie below checkpoints/."""
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _arguments(requests: Sequence[Instance]) -> list[tuple[Any, ...]]:
    return [request.args for request in requests]


def _parts(items: list[T], size: int) -> Iterator[list[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
