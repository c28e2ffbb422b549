"""`image_folder`: pictures by the folders of their classes, or with text files beside them."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence

import numpy as np

from mmjax.core.errors import InputError
from mmjax.core.example import Segment
from mmjax.data.sources.files import inside, patiently
from mmjax.data.sources.index import FileIndex
from mmjax.data.sources.lines import read_span
from mmjax.data.sources.options import ImageFolderOptions
from mmjax.data.sources.reader import IndexedReader, pair_segments, usable_text, valid_text
from mmjax.data.sources.tars import PICTURES

EXTENSIONS = tuple(f".{end}" for end in PICTURES)


class ImageFolder(IndexedReader):
    """The pictures of folders, in the order of the folders and of their names in each."""

    folders = True

    def __init__(self, options: ImageFolderOptions, **settings):
        super().__init__(options, **settings)
        self._index = FileIndex(leaf_folders(self._paths), scan_pictures, cache=self.cache, version="pictures 1")
        self._names = _read_names(options.class_names)
        self._images = self._pictures()

    @property
    def files_key(self) -> str:
        return f"{super().files_key} {sorted(self._names.items())}"

    def segments(self, index: int) -> tuple[Segment, ...]:
        folder, name, what = self._located(index)
        name = os.fsdecode(bytes(name))
        if self._options.text == "class":
            label = os.path.basename(os.path.normpath(folder))
            text = valid_text(self._names.get(label, label.replace("_", " ")), what)
        else:
            path = inside(folder, os.path.splitext(name)[0] + ".txt")
            text = read_span(path, {"offset": 0, "size": patiently(path, functools.partial(os.path.getsize, path))})
        text = usable_text(text, what)
        media = self._images.decode_later(functools.partial(inside, folder, name), what)
        return pair_segments([media], text, prompt=self._options.prompt, end_of_chunk=self._options.end_of_chunk)


def leaf_folders(paths: Sequence[str]) -> list[str]:
    """The folders in folders (those of classes), or a folder itself where there is none in it; in order."""
    leaves: list[str] = []
    for path in paths:
        if not os.path.isdir(path):
            raise InputError(f"{path} is not a folder of pictures")
        within = sorted(entry.path for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))
        leaves += within or [path]
    return leaves


def scan_pictures(folder: str) -> np.ndarray:
    """The names of the pictures of a folder."""
    with os.scandir(folder) as entries:
        names = [os.fsencode(entry.name) for entry in entries if entry.name.lower().endswith(EXTENSIONS)]
    return np.array(sorted(names), f"S{max(map(len, names), default=1)}")


def _read_names(path):
    if not path:
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            names = json.load(file)
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise ValueError("it must be an object of texts")
    except (OSError, ValueError) as error:
        raise InputError(f"class_names: {path} cannot be read: {error}") from None
    return names
