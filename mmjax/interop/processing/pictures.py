"""The picture processor of a released checkpoint, read from its files: pictures -> the arrays that its model takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmjax.core.errors import InputError
from mmjax.interop.processing import plain, tiling
from mmjax.interop.processing.pixels import Picture, as_rgb
from mmjax.interop.processing.settings import PictureSettings, build_settings, class_name, processor_tree

Arrays = dict[str, Any]

# Each takes the pictures of a call in one list, ...
PROCESSORS: dict[str, Callable[..., Arrays]] = {
    "ViTImageProcessor": plain.plain,
    "CLIPImageProcessor": plain.plain,
    "SiglipImageProcessor": plain.plain,
    "BitImageProcessor": plain.plain,
    "ConvNextImageProcessor": plain.convnext,
    "BlipImageProcessor": plain.plain,
    "IdeficsImageProcessor": plain.plain,
    "LlavaImageProcessor": plain.llava,
    "LlavaNextImageProcessor": tiling.llava_next,
    "Gemma3ImageProcessor": plain.gemma3,
    "Qwen2VLImageProcessor": tiling.qwen2_vl,
}
# ... or in a list for each row of the batch.
ROW_PROCESSORS: dict[str, Callable[..., Arrays]] = {
    "MllamaImageProcessor": tiling.mllama,
    "Idefics3ImageProcessor": tiling.idefics3,
    "SmolVLMImageProcessor": tiling.idefics3,
}


@dataclasses.dataclass(frozen=True)
class PictureProcessor:
    """What a checkpoint does to pictures: the class that it names, without suffix, and its settings."""

    name: str
    settings: PictureSettings

    def __call__(self, pictures: Picture | Sequence[Picture] | Sequence[Sequence[Picture]]) -> Arrays:
        """Arrays under the names and in the layouts of transformers, `pixel_values` float32 and counts int64.

        `pictures`: one, a list of those of one prompt, or a list of such lists, one for each prompt of a batch. Which
        arrays there are is told by the function of the class, in `plain` and `tiling`; counts that differ from row to
        row (`num_tiles`, `rows`, `cols`) are lists of lists.

        Raises:
          InputError: no picture, or one that the settings cannot take.
          DataError: a file that cannot be decoded.
        """
        rows = [[as_rgb(one, convert=self.settings.do_convert_rgb) for one in row] for row in as_rows(pictures)]
        if not any(rows):
            raise InputError("there is no picture; give at least one")
        if self.name in ROW_PROCESSORS:
            return ROW_PROCESSORS[self.name](rows, self.settings)
        return PROCESSORS[self.name]([image for row in rows for image in row], self.settings)


def as_rows(pictures: Picture | Sequence[Picture] | Sequence[Sequence[Picture]]) -> list[list[Picture]]:
    """A list of pictures for each prompt of a batch."""
    if not isinstance(pictures, list | tuple):
        return [[pictures]]
    if pictures and all(isinstance(row, list | tuple) for row in pictures):
        return [list(row) for row in pictures]
    return [list(pictures)]


def read_picture_processor(folder: str | Path) -> PictureProcessor:
    """The picture processor of the checkpoint in `folder`, in the layout of transformers, old or new.

    Raises:
      InputError: the folder has no processor file, or one that names a class that is not known (those that are known
        are listed), or one with a setting that is wrong (a ConfigError, which names it).
    """
    tree, where = processor_tree(folder)
    name = class_name(tree, where)
    return PictureProcessor(name, build_settings(name, tree, where))
