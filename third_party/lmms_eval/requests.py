"""What lmms-eval asks, as prompts of ours: pictures and contexts, settings of writing, continuations of one prompt."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mmjax.core.errors import InputError
from mmjax.core.example import Media, Segment, Text
from mmjax.data.images import eight_bits
from mmjax.decoding.prompt import IMAGE_MARK, Prompt

MAX_NEW_TOKENS = 256
# Of settings of writing these mean nothing more when writing is greedy.
_OF_SAMPLING = ("temperature", "top_p", "top_k", "do_sample")
_KNOWN = {*_OF_SAMPLING, "max_new_tokens", "max_gen_toks", "until", "num_beams", "use_cache", "image_aspect_ratio"}


@dataclasses.dataclass(frozen=True)
class Writing:
    """How an answer is written: at most so many tokens, up to a stop string, with so many beams."""

    max_tokens: int
    stop: tuple[str, ...]
    beams: int


def writing_of(settings: Mapping[str, Any]) -> Writing:
    """The settings of a task's `generation_kwargs`.

    Raises:
      InputError: they ask for sampling, or for what is not known.
    """
    unknown = sorted(set(settings) - _KNOWN)
    if unknown:
        raise InputError(
            f"generation_kwargs: {', '.join(unknown)} cannot be set; known are {', '.join(sorted(_KNOWN))}"
        )
    if settings.get("do_sample") or (settings.get("temperature") or 0) > 0:
        raise InputError("generation_kwargs ask for sampling; mmjax answers lmms-eval greedily: set temperature to 0")
    until = settings.get("until") or ()
    return Writing(
        int(settings.get("max_new_tokens") or settings.get("max_gen_toks") or MAX_NEW_TOKENS),
        (until,) if isinstance(until, str) else tuple(until),
        int(settings.get("num_beams") or 1),
    )


def prompt_of(context: str, visuals: Sequence[Any], template: str) -> Prompt:
    """The prompt of a context and its pictures.

    Where the context has `<image>` once for each picture, they stand there; else all where the template has `<image>`,
    or before it all.

    Args:
      template: holds {context}, as in "USER: <image>{context} ASSISTANT:".

    Raises:
      InputError: something else than pictures, or marks that are not as many as they.
    """
    media = [_picture(visual) for visual in visuals]
    before, _, after = template.partition("{context}")
    marks = context.count(IMAGE_MARK)
    if marks:
        if marks != len(media):
            raise InputError(f"the context has {marks} {IMAGE_MARK} and {len(media)} pictures: {context[:80]!r}")
        return Prompt.from_text(before.replace(IMAGE_MARK, "") + context + after.replace(IMAGE_MARK, ""), media)
    text = template.replace("{context}", context)
    place = text.find(IMAGE_MARK)
    head, tail = ("", text) if place < 0 else (text[:place], text[place + len(IMAGE_MARK) :])
    segments: list[Segment] = [*([Text(head)] if head else []), *media, *([Text(tail)] if tail else [])]
    return Prompt(tuple(segments))


def _picture(visual: Any) -> Media:
    if not isinstance(visual, Image.Image):
        raise InputError(f"mmjax takes pictures from lmms-eval, not {type(visual).__name__}: no video and no sound")
    return Media((np.asarray(eight_bits(visual).convert("RGB")),))


class Group(NamedTuple):
    """Continuations of one prompt, which are rated together; `numbers` are those of their requests."""

    numbers: tuple[int, ...]
    context: str
    visuals: Callable[[], Sequence[Any]]
    continuations: tuple[str, ...]


def groups_of(requests: Sequence[tuple[Any, ...]], doc_of: Callable[[str, str, int], Any]) -> Iterator[Group]:
    """The requests of log-likelihoods, those of one document and context together as they stand beside each other.

    Args:
      requests: (context, continuation or a function of the document, function to its pictures, document, task, split);
        without the last four it has no pictures.
      doc_of: the document of (task, split, number).
    """
    numbered = list(enumerate(requests))
    for (context, *place), found in itertools.groupby(numbered, lambda one: (one[1][0], *map(str, one[1][3:]))):
        members = list(found)
        first = members[0][1]
        if place:
            _, _, to_visual, number, task, split = first
            doc = doc_of(task, split, number)
            visuals = _of_doc(to_visual, doc)
        else:
            doc, visuals = None, tuple
        told = tuple(one if isinstance(one, str) else str(one(doc)) for _, (_, one, *_) in members)
        yield Group(tuple(number for number, _ in members), context, visuals, told)


def _of_doc(to_visual, doc):
    def visuals() -> Sequence[Any]:
        return to_visual(doc) or ()

    return visuals


def is_beginning(continuation: str, written: str) -> bool:
    """Whether greedy writing begins with a continuation, but for white space at the ends."""
    return bool(continuation.strip()) and written.strip().startswith(continuation.strip())
