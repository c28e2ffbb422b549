"""Generators of `image` and `text` for TensorFlow Datasets, over the readers of mmjax."""

from __future__ import annotations

import collections
import io
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds

from mmjax.core.errors import DataError, InputError
from mmjax.core.example import Media, Text
from mmjax.data.sources.folders import ImageFolder, leaf_folders, scan_pictures
from mmjax.data.sources.options import ImageFolderOptions, JsonlOptions
from mmjax.data.sources.reader import FileReader
from mmjax.data.sources.tables import Jsonl

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Captions(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A picture, as the bytes of its file, and a text; records that cannot be used are left out and counted.

    Attributes:
      left_out: how many records of each kind of fault were left out.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, reader: FileReader, *, split: str = "train", **settings: Any):
        """`reader`: of pairs, whose name is that of the data set. `settings`: those of TFDS, such as `data_dir`."""
        self.name, self._reader, self._split = reader.name, reader, split
        self.left_out: collections.Counter[str] = collections.Counter()
        super().__init__(**settings)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features, description="Pictures and texts.")

    def _split_generators(self, dl_manager: Any) -> Mapping[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {self._split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(len(self._reader)):
            try:
                yield index, pair_of(self._reader, index)
            except DataError as error:
                self.left_out[error.kind] += 1


def pair_of(reader: FileReader, index: int) -> dict[str, Any]:
    """The features of a record. Raises DataError for one that is no pair, or whose picture cannot be decoded."""
    segments = reader.load(index, 0).segments
    media = [segment for segment in segments if isinstance(segment, Media)]
    if len(media) != 1:
        raise DataError(f"record {index} has {len(media)} pictures, a pair has one", kind="bad_record")
    media[0].load()
    (frame,) = media[0].frames
    text = "".join(segment.text for segment in segments if isinstance(segment, Text))
    return {"image": io.BytesIO(frame.encoded()), "text": text}


def folder_reader(source: str, *, name: str) -> ImageFolder:
    """The pictures of a folder: with the texts beside them (a.jpg, a.txt) where the first has one, else by class."""
    folder = leaf_folders([source])[0]
    first = [os.fsdecode(bytes(file)) for file in scan_pictures(folder)[:1]]
    beside = any(os.path.exists(os.path.join(folder, os.path.splitext(file)[0] + ".txt")) for file in first)
    return ImageFolder(
        ImageFolderOptions(paths=(source,), text="txt" if beside else "class"), name=name, seed=0, image_size=64
    )


def jsonl_reader(source: str, *, name: str, images: str = "") -> Jsonl:
    """JSONL of {"image": PATH, "text": ...}; `images`: the folder, or tar files, that paths begin in."""
    return Jsonl(JsonlOptions(paths=(source,), images=images), name=name, seed=0, image_size=64)


def prepare(reader: FileReader, data_dir: str, *, split: str = "train") -> Captions:
    """Writes the data set of a reader into `data_dir`, unless it is there.

    Raises:
      InputError: a name of other characters than a-z, 0-9 and _, or no record that can be used.
    """
    if not _NAME.fullmatch(reader.name):
        raise InputError(f"a data set's name is of a-z, 0-9 and _ and begins with a letter, not {reader.name!r}")
    builder = Captions(reader, split=split, data_dir=os.path.expanduser(data_dir), file_format="array_record")
    try:
        builder.download_and_prepare()
    except AssertionError:
        if builder.left_out.total() < len(reader):
            raise
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(builder.left_out.items()))
        raise InputError(f"{reader.name} has no record that can be used ({found or 'it is empty'})") from None
    return builder
