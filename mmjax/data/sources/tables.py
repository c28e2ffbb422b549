"""`jsonl` and `csv`: rows that name pictures and hold texts; and how a row of any table becomes an example."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from typing import Any

from mmjax.core.errors import DataError, InputError
from mmjax.core.example import Segment, Text
from mmjax.data.sources.index import FileIndex
from mmjax.data.sources.lines import MAX_HEADER, first_row, parse_json, read_span, scan_csv, scan_lines
from mmjax.data.sources.options import CsvOptions, JsonlOptions, TableOptions
from mmjax.data.sources.pictures import Pictures
from mmjax.data.sources.reader import IndexedReader, pair_segments, usable_text


def row_segments(row: Mapping[str, Any], options: TableOptions, pictures: Pictures, what: str) -> tuple[Segment, ...]:
    """A row of pictures, perhaps a prompt, and a text. Raises DataError for one that lacks any of them."""
    shown = row.get(options.image) if options.image else []
    shown = list(shown) if isinstance(shown, (list, tuple)) else [shown]
    if options.image and (not shown or shown[0] in (None, "")):
        raise DataError(f"{what} has no {options.image}", kind="missing")
    prompt = options.prompt
    if options.prompt_column:
        asked = usable_text(row.get(options.prompt_column), f"{what}: {options.prompt_column}", strip=False)
        prompt += asked + options.separator
    text = usable_text(row.get(options.text), f"{what}: {options.text}")
    media = [pictures.media(picture, what) for picture in shown]
    return pair_segments(media, text, prompt=prompt, end_of_chunk=options.end_of_chunk and bool(media))


class Jsonl(IndexedReader):
    """An object a line: a pair, or an interleaved page under "segments"."""

    def __init__(self, options: JsonlOptions, **settings):
        super().__init__(options, **settings)
        self._index = FileIndex(self._paths, scan_lines, cache=self.cache, version="lines 1")
        self._images = self._pictures(options.images)

    def segments(self, index: int) -> tuple[Segment, ...]:
        path, span, what = self._located(index)
        record = parse_json(read_span(path, span), what)
        if "segments" in record:
            return self._page(record["segments"], what)
        return row_segments(record, self._options, self._images, what)

    def _page(self, items, what):
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise DataError(f"{what}: segments must be a list of objects", kind="bad_record")
        segments: list[Segment] = []
        for number, item in enumerate(items):
            if set(item) - {"loss"} not in ({"image"}, {"text"}) or not isinstance(item.get("loss", True), bool):
                raise DataError(f"{what}: a segment is an image, or a text with perhaps a loss", kind="bad_record")
            if "image" in item:
                segments.append(self._images.media(item["image"], what))
                continue
            ends = number + 1 == len(items) or "image" in items[number + 1]
            after = any("image" in earlier for earlier in items[:number])
            text = usable_text(item["text"], what, strip=False)
            chunk = self._options.end_of_chunk and ends and after
            segments.append(Text(text, loss=item.get("loss", True), end_of_chunk=chunk))
        if not any(isinstance(segment, Text) for segment in segments):
            raise DataError(f"{what} has no text", kind="empty_text")
        return tuple(segments)


class Csv(IndexedReader):
    """Rows under a header, which each file has."""

    def __init__(self, options: CsvOptions, **settings):
        super().__init__(options, **settings)
        self._index = FileIndex(self._paths, scan_csv, cache=self.cache, version="csv 1")
        self._images = self._pictures(options.images)
        self._header = functools.lru_cache(maxsize=256)(self._read_header)
        for path in self._paths[:1]:
            columns = self._header(path)
            for column in filter(None, (options.image, options.text, options.prompt_column)):
                if column not in columns:
                    raise InputError(f"{path} has no column {column!r}; it has {', '.join(columns)}")

    def segments(self, index: int) -> tuple[Segment, ...]:
        path, span, what = self._located(index)
        values, columns = self._parse(read_span(path, span), what), self._header(path)
        if len(values) != len(columns):
            raise DataError(f"{what} has {len(values)} fields, the header {len(columns)}", kind="bad_record")
        return row_segments(dict(zip(columns, values, strict=True)), self._options, self._images, what)

    def _read_header(self, path):
        with open(path, "rb") as file:
            header = first_row(file.read(MAX_HEADER).removeprefix(b"\xef\xbb\xbf"))
        if not header.strip():
            raise InputError(f"{path} is empty: a CSV file begins with the names of its columns")
        return self._parse(header, f"the header of {path}")

    def _parse(self, data, what):
        try:
            text = data.decode("utf-8").rstrip("\r\n")
            rows = list(csv.reader([text], delimiter=self._options.delimiter, strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{what} is not a row of CSV: {error}", kind="bad_record") from None
        return rows[0] if rows else []
