"""`webdataset`: tar shards of samples that share a key: 000000001.jpg, 000000001.txt, 000000001.json."""

from __future__ import annotations

import functools

from mmjax.core.errors import DataError
from mmjax.core.example import Segment
from mmjax.data.sources.files import read_at
from mmjax.data.sources.index import FileIndex
from mmjax.data.sources.lines import MAX_RECORD, parse_json
from mmjax.data.sources.options import WebDatasetOptions
from mmjax.data.sources.reader import IndexedReader, pair_segments, usable_text
from mmjax.data.sources.tars import Sample, scan_samples


class WebDataset(IndexedReader):
    """A picture and its text for every key, in the order of the shards and of the keys in each."""

    def __init__(self, options: WebDatasetOptions, **settings):
        super().__init__(options, **settings)
        self._index = FileIndex(self._paths, scan_samples, cache=self.cache, version="webdataset 1")
        self._images = self._pictures()

    def segments(self, index: int) -> tuple[Segment, ...]:
        path, row, what = self._located(index)
        sample = Sample(*row.item())
        if sample.image_size < 0:
            raise DataError(f"{what} has no picture", kind="missing")
        read = functools.partial(_part, path, sample.image_offset, sample.image_size, "image", what)
        text = usable_text(self._text(path, sample, what), what)
        media = self._images.decode_later(read, what)
        return pair_segments([media], text, prompt=self._options.prompt, end_of_chunk=self._options.end_of_chunk)

    def _text(self, path, sample, what):
        field = self._options.text
        if field == "txt":
            part, offset, size = "txt", sample.txt_offset, sample.txt_size
        else:
            part, offset, size = "json", sample.json_offset, sample.json_size
        if size < 0:
            raise DataError(f"{what} has no .{part}", kind="empty_text")
        data = _part(path, offset, size, part, what)
        return data if part == "txt" else parse_json(data, f"the .json of {what}").get(field)


def _part(path, offset, size, part, what):
    if size > MAX_RECORD:
        raise DataError(f"{what}: its .{part} has {size} bytes, more than {MAX_RECORD}", kind="too_long")
    return read_at(path, offset, size)
