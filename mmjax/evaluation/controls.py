"""Controls: what is taken away from a prompt, so that a score shows what it was worth."""

from __future__ import annotations

import dataclasses

import numpy as np

from mmjax.core.example import Media
from mmjax.data.keyed import Dice, key_of
from mmjax.evaluation.question import Form
from mmjax.evaluation.settings import Control


def applies(control: Control, shots: int) -> bool:
    """Whether there is anything to take away: all but black pictures need demonstrations."""
    return control in ("none", "blanked") or shots > 0


def controlled(form: Form, control: Control, name: str) -> Form:
    """The form under a control; a pure function of the form and of `name`, which names the question.

    "shuffled": the query gets the picture of a demonstration, and those left over, the query's own among them, are
    dealt to the demonstrations in random order. What is right for the query is then, over many questions, as probable
    as any other answer of the demonstrations, and so it is where these are "relabelled" in random order.
    """
    if control == "blanked":
        return dataclasses.replace(form, shots=tuple(map(_black, form.shots)), query=_black(form.query))
    dice = Dice(key_of(control, name))
    if control == "unpictured":
        return dataclasses.replace(form, shots=tuple(part.with_media(()) for part in form.shots))
    if control == "relabelled":
        answers = [part.answer for part in form.shots]
        dice.shuffle(answers)
        shots = zip(form.shots, answers, strict=True)
        return dataclasses.replace(form, shots=tuple(dataclasses.replace(part, answer=new) for part, new in shots))
    if control == "shuffled":
        return _shuffled(form, dice)
    return form


def _black(part):
    return part.with_media(
        tuple(Media(tuple(np.zeros_like(frame) for frame in medium.load())) for medium in part.media)
    )


def _shuffled(form, dice):
    """Parts exchange all their pictures where they have equally many, else each of them keeps its own."""
    own = form.query.media
    alike = [number for number, part in enumerate(form.shots) if own and len(part.media) == len(own)]
    if not alike:
        return form
    pictures = [form.shots[number].media for number in alike]
    taken = pictures.pop(dice.below(len(pictures)))
    pictures.append(own)
    dice.shuffle(pictures)
    new = dict(zip(alike, pictures, strict=True))
    shots = tuple(part.with_media(new[number]) if number in new else part for number, part in enumerate(form.shots))
    return Form(shots, form.query.with_media(taken))
