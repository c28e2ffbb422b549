"""Prompts of ours continued by a model that stands in a folder in the layout of transformers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.core.errors import DataError, InputError
from mmjax.core.example import Media
from mmjax.decoding.generate import Generated
from mmjax.decoding.prompt import Prompt, as_media
from mmjax.evaluation.models.layouts import as_picture, lay_out_prompt
from mmjax.interop.pretrained import LoadedModel
from mmjax.interop.processing.pixels import as_rgb
from mmjax.interop.processing.prompts import PromptProcessor

# Whose pictures have no place in the text.
_APART = ("VisionEncoderDecoder",)


def open_whole(source: str | os.PathLike) -> Media:
    """The picture of a file at its own size, which the model's processor then scales.

    Raises:
      InputError: there is no such file, or it is no picture, broken or too large.
    """
    try:
        return as_media(as_rgb(source, convert=False))
    except DataError as error:
        raise InputError(str(error)) from None


def write_after(
    loaded: LoadedModel,
    prompt: Prompt,
    settings: Mapping[str, Any],
    *,
    stop: Sequence[str] = (),
    choices: Sequence[str] = (),
) -> list[Generated]:
    """Continues a prompt, in which the model's own placeholder is put for each picture.

    settings: of the reference's `generate`, over those of the folder. stop, choices: as of `decoding.generate`.

    Raises:
      InputError: the model takes no pictures or not so many, or settings that do not go together.
    """
    written = loaded.write(**settings, stop=stop, choices=choices, **_arrays(loaded, prompt))
    whole, texts = loaded.texts_of(written), loaded.texts_of(written, stop)
    found = []
    for row, length in enumerate(written.lengths.tolist()):
        if not length:
            continue  # there are fewer answers than beams
        ended_by = "stop" if texts[row] != whole[row] else "eos" if written.ended[row] else "length"
        found.append(
            Generated(
                texts[row],
                written.sequences[row, written.start : written.start + length],
                written.log_probabilities[row, :length],
                ended_by,
                None if written.scores is None else float(written.scores[row]),
                None if written.choices is None else written.choices[row],
            )
        )
    return found


def _arrays(loaded: LoadedModel, prompt: Prompt) -> dict[str, Any]:
    processor = loaded.processor
    if not isinstance(processor, PromptProcessor):
        if prompt.media:
            raise InputError("this model has no processor for prompts with pictures; leave --image and --shot out")
        return loaded.prepare([str(prompt)], pad="left")
    placeholder = "" if processor.name in _APART else processor.placeholder
    text, media = lay_out_prompt(prompt, processor.name, placeholder)
    pictures = [as_picture(medium) for medium in media]
    return loaded.prepare([text], [pictures] if pictures else None, pad="left")
