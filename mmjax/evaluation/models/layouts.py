"""A prompt as the processor of a released checkpoint takes it: where its pictures stand, and what ends a chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from mmjax.core.errors import InputError
from mmjax.core.example import Media, Text
from mmjax.decoding.prompt import Prompt
from mmjax.interop.processing.prompts import IN_FRONT, LISTED

# Between demonstrations, where the model has no token of its own for the end of a chunk.
CHUNK_END = "\n"
_CHUNK_ENDS = {"OpenFlamingo": "<|endofchunk|>"}
_AROUND = {
    "Qwen2VLProcessor": "<|vision_start|>{}<|vision_end|>",
    "Qwen2_5_VLProcessor": "<|vision_start|>{}<|vision_end|>",
}


def lay_out_prompt(prompt: Prompt, processor: str, placeholder: str) -> tuple[Any, list[Media]]:
    """The text that the class `processor` of transformers takes, and the pictures of its placeholders in order.

    For IDEFICS the text is a list in which the pictures themselves stand, and there are no others. `placeholder` is
    what stands for a picture in a text of that checkpoint.

    Raises:
      InputError: several pictures for a model that takes one.
    """
    end = _CHUNK_ENDS.get(processor, CHUNK_END)
    if processor in LISTED:
        return _listed(prompt, end), []
    if processor in IN_FRONT:
        placeholder = ""
        if len(prompt.media) > 1:
            raise InputError(
                f"a prompt has {len(prompt.media)} pictures, but {processor} takes one, before the text: evaluate it "
                "without demonstrations, or with demonstrations without pictures"
            )
    placeholder = _AROUND.get(processor, "{}").format(placeholder)
    return "".join(_written(segment, placeholder, end) for segment in prompt.segments), list(prompt.media)


def continued(text: Text, processor: str) -> str:
    """What a model is to write for `text` after a prompt: an end of its chunk is left out, where no token says it."""
    return text.text + (_CHUNK_ENDS.get(processor, "") if text.end_of_chunk else "")


def _written(segment, placeholder, end):
    if isinstance(segment, Text):
        return segment.text + end * segment.end_of_chunk
    return placeholder


def _listed(prompt, end):
    return [
        _written(segment, "", end) if isinstance(segment, Text) else as_picture(segment) for segment in prompt.segments
    ]


def as_picture(media: Media) -> Image.Image:
    """The picture of a medium at the size that its file has.

    Raises:
      InputError: it is a video.  DataError: it cannot be decoded.
    """
    frames = media.load()
    if len(frames) != 1:
        raise InputError(f"a video of {len(frames)} frames cannot stand in the prompt of a model that takes pictures")
    return Image.fromarray(np.asarray(frames[0]))
