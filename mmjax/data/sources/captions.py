"""`coco`, `karpathy` and `flickr30k`: pictures of several captions each, in the files that the sets are given in."""

from __future__ import annotations

import numpy as np

from mmjax.core.errors import DataError
from mmjax.core.example import Media, Segment
from mmjax.data.sources.benchmarks import CaptionOptions, KarpathyOptions
from mmjax.data.sources.cursor import list_items
from mmjax.data.sources.index import FileIndex
from mmjax.data.sources.lines import SPAN, parse_json, read_span, scan_lines
from mmjax.data.sources.listed import KeyedList
from mmjax.data.sources.pictures import Pictures
from mmjax.data.sources.reader import FileReader, IndexedReader, pair_segments, usable_text, valid_text

_SENTENCE = np.dtype([*SPAN.descr, ("sentence", "<i4")])


class Coco(FileReader):
    """A caption of `annotations`, and its picture by the `file_name` of the entry of `images` that it belongs to."""

    def __init__(self, options: CaptionOptions, **settings):
        super().__init__(options, **settings)
        self._captions = KeyedList(self._paths, "annotations", "image_id", cache=self.cache)
        self._files = KeyedList(self._paths, "images", "id", cache=self.cache)
        self._images = self._pictures(options.images)

    @property
    def files_key(self) -> str:
        return self._captions.key

    def __len__(self) -> int:
        return len(self._captions)

    @property
    def indices(self) -> tuple[FileIndex, ...]:
        return self._captions.index, self._files.index

    def file_of(self, index: int) -> str:
        return self._captions.file_of(index)

    def segments(self, index: int) -> tuple[Segment, ...]:
        path, caption = self._captions[index]
        what = f"{self._what(index)} in {path}"
        text = usable_text(caption.get("caption"), what)
        image = self._files.find(caption.get("image_id"), what)
        media = self._images.media(image.get("file_name"), what)
        return pair_segments([media], text, prompt=self._options.prompt, end_of_chunk=self._options.end_of_chunk)


class Karpathy(IndexedReader):
    """A sentence of a picture of the splits that are asked for."""

    def __init__(self, options: KarpathyOptions, **settings):
        super().__init__(options, **settings)
        splits = tuple(sorted(options.splits))
        self._index = FileIndex(
            self._paths, scan_sentences, splits, cache=self.cache, version=f"sentences {' '.join(splits)} 1"
        )
        self._images = self._pictures(options.images)

    def segments(self, index: int) -> tuple[Segment, ...]:
        path, place, what = self._located(index)
        image = parse_json(read_span(path, place), what)
        try:
            text = image["sentences"][int(place["sentence"])]["raw"]
        except (LookupError, TypeError):
            raise DataError(f"{what} is not a picture with sentences", kind="bad_record") from None
        text = usable_text(text, what)
        folder, name = image.get("filepath"), image.get("filename")
        names = [f"{folder}/{name}", name] if isinstance(folder, str) else [name]
        media = first_there(self._images, names, what)
        return pair_segments([media], text, prompt=self._options.prompt, end_of_chunk=self._options.end_of_chunk)


class Flickr30k(IndexedReader):
    """A line `NAME.jpg#NUMBER`, a tabulator, and the caption."""

    def __init__(self, options: CaptionOptions, **settings):
        super().__init__(options, **settings)
        self._index = FileIndex(self._paths, scan_lines, cache=self.cache, version="lines 1")
        self._images = self._pictures(options.images)

    def segments(self, index: int) -> tuple[Segment, ...]:
        path, span, what = self._located(index)
        head, tab, text = valid_text(read_span(path, span), what).partition("\t")
        name, mark, number = head.rpartition("#")
        if not tab or not mark or not number.isdigit():
            raise DataError(f"{what} is not NAME#NUMBER, a tabulator and a caption", kind="bad_record")
        text, media = usable_text(text, what), self._images.media(name, what)
        return pair_segments([media], text, prompt=self._options.prompt, end_of_chunk=self._options.end_of_chunk)


def scan_sentences(path: str, splits: tuple[str, ...]) -> np.ndarray:
    """Where the pictures of some splits lie, once for each of their sentences."""
    rows = []
    for offset, size, image in list_items(path, "images"):
        if isinstance(image, dict) and image.get("split") in splits:
            sentences = image.get("sentences")
            count = len(sentences) if isinstance(sentences, list) else 1
            rows += [(offset, size, number) for number in range(count)]
    return np.array(rows, _SENTENCE)


def first_there(pictures: Pictures, names: list, what: str) -> Media:
    """The picture of the first name that there is; of the last name where there is none."""
    found = (name for name in names[:-1] if pictures.has(name))
    return pictures.media(next(found, names[-1]), what)
