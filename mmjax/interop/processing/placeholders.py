"""What stands in a prompt's text for one picture, by the processor class of the checkpoint.

Each function gives the text that replaces a placeholder; the model then puts its features at the image tokens in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from mmjax.core.errors import InputError
from mmjax.interop.processing.tokens import PromptTokenizer
from mmjax.models.connectors.tiles import best_resolution, unpadded


@dataclasses.dataclass(frozen=True)
class PromptSettings:
    """`processor_config.json`: what the text side knows of the model, with the defaults of transformers.

    patch_size, num_additional_image_tokens, vision_feature_select_strategy: the vision tower of LLaVA and LLaVA-NeXT.
    image_seq_length (Gemma 3), image_seq_len (Idefics3, SmolVLM): tokens a picture or tile.
    num_query_tokens (BLIP-2, InstructBLIP): tokens before the text; none where it is missing.
    image_token: how LLaVA's placeholder is spelled where the tokenizer does not say.
    """

    patch_size: int | None = None
    num_additional_image_tokens: int = 0
    vision_feature_select_strategy: str | None = None
    image_seq_length: int = 256
    image_seq_len: int = 169
    num_query_tokens: int | None = None
    image_token: str = "<image>"

    @property
    def others(self) -> int:
        """Tokens that come with the patches and are kept: class tokens and the like."""
        return self.num_additional_image_tokens - (self.vision_feature_select_strategy == "default")


@dataclasses.dataclass(frozen=True)
class Context:
    """What a replacement may depend on: settings of both sides, the tokenizer, and the arrays of the pictures.

    `pictures` is the `PictureSettings` of the class that goes with the prompt's.
    """

    prompt: PromptSettings
    pictures: Any
    tokenizer: PromptTokenizer
    arrays: Mapping[str, Any]
    image_token: str


def llava(context: Context, index: int) -> str:
    """A token a patch."""
    height, width = context.arrays["pixel_values"][index].shape[-2:]
    patch = context.prompt.patch_size
    return context.image_token * ((height // patch) * (width // patch) + context.prompt.others)


def llava_next(context: Context, index: int) -> str:
    """The whole picture's patches, those of the tiles without rows or columns of padding, and one a row of these."""
    size = tuple(context.arrays["image_sizes"][index].tolist())
    tile = context.arrays["pixel_values"].shape[-2:]
    patches = [edge // context.prompt.patch_size for edge in tile]
    resolution = best_resolution(size, context.pictures.image_grid_pinpoints)
    grid = tuple(p * (r // t) for p, r, t in zip(patches, resolution, tile, strict=True))
    height, width = (kept.stop - kept.start for kept in unpadded(size, grid))
    return context.image_token * (height * width + height + patches[0] * patches[1] + context.prompt.others)


def paligemma(context: Context, index: int) -> str:
    """As many tokens as the picture side says, for every picture."""
    if context.pictures.image_seq_length is None:
        raise InputError("the picture processor's settings have no image_seq_length; add it (256 at 224 pixels)")
    return context.image_token * context.pictures.image_seq_length


def gemma3(context: Context, index: int) -> str:
    """Soft tokens between a begin and an end; crops follow the whole picture, with words in between."""
    spelled = [context.tokenizer.spelling(f"{name}_token") for name in ("boi", "image", "eoi")]
    whole = f"\n\n{spelled[0]}{spelled[1] * context.prompt.image_seq_length}{spelled[2]}\n\n"
    crops = int(context.arrays["num_crops"][index])
    if not crops:
        return whole
    # The words are part of what the model was trained on.
    words = f"Here is the original image {whole} and here are some crops to help you see better "
    return words + " ".join([whole] * crops)


def idefics3(context: Context, index: int) -> str:
    """Each tile with its row and column, a line a row, then the whole picture; only this where there are no tiles."""
    rows, columns = ([number for row in context.arrays[name] for number in row][index] for name in ("rows", "cols"))
    fake = context.tokenizer.named.get("fake_image_token", "<fake_token_around_image>")
    tokens = context.image_token * context.prompt.image_seq_len
    lines = [
        "".join(f"{fake}<row_{row + 1}_col_{column + 1}>{tokens}" for column in range(columns)) + "\n"
        for row in range(rows)
    ]
    whole = f"{fake}{context.tokenizer.named.get('global_image_token', '<global-img>')}{tokens}{fake}"
    return "".join([*lines, "\n" if lines else "", whole])


def qwen2_vl(context: Context, index: int) -> str:
    """A token for each square of patches that the model merges."""
    patches = int(context.arrays["image_grid_thw"][index].prod())
    return context.image_token * (patches // context.pictures.merge_size**2)


REPLACEMENTS: dict[str, Callable[[Context, int], str]] = {
    "LlavaProcessor": llava,
    "LlavaNextProcessor": llava_next,
    "PaliGemmaProcessor": paligemma,
    "Gemma3Processor": gemma3,
    "Idefics3Processor": idefics3,
    "SmolVLMProcessor": idefics3,
    "Qwen2VLProcessor": qwen2_vl,
    "Qwen2_5_VLProcessor": qwen2_vl,
}
