"""`mmc4` and `obelics`: interleaved pages of the web."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any

import numpy as np

from mmjax.core.arrays import Float
from mmjax.core.errors import DataError
from mmjax.core.example import Media, Segment
from mmjax.data.sources.columns import parquet_rows
from mmjax.data.sources.index import FileIndex
from mmjax.data.sources.lines import parse_json, read_span, scan_lines
from mmjax.data.sources.options import Mmc4Options, ObelicsOptions
from mmjax.data.sources.reader import FileReader, IndexedReader, page_segments, usable_text


def assign(similarities: Float[np.ndarray, "N S"], *, min_similarity: float, max_images: int) -> list[tuple[int, int]]:
    """(picture, sentence) pairs of a page of N pictures and S sentences, in the order of the sentences.

    The one-to-one assignment of the largest total similarity; then pairs below `min_similarity` are dropped, and of the
    others the first `max_images` pictures are kept. As OpenFlamingo, which however leaves the pictures in their own
    order where that of their sentences is another: here a picture always stands before the sentence it was given.
    """
    # Imported here: it takes half a second, and few runs have such pages.
    from scipy.optimize import linear_sum_assignment

    pictures, sentences = linear_sum_assignment(similarities, maximize=True)
    pairs = [
        (int(picture), int(sentence))
        for picture, sentence in zip(pictures, sentences, strict=True)
        if similarities[picture, sentence] >= min_similarity
    ]
    return sorted(pairs[:max_images], key=lambda pair: pair[1])


class Mmc4(IndexedReader):
    """A page a line: `text_list`, `image_info` and, in the full set, `similarity_matrix`."""

    def __init__(self, options: Mmc4Options, **settings):
        super().__init__(options, **settings)
        self._index = FileIndex(self._paths, scan_lines, cache=self.cache, version="lines 1")
        self._images = self._pictures(options.images)

    @property
    def files_key(self) -> str:
        return f"{super().files_key} {self._images.key}"  # pictures that are not there are left out

    def segments(self, index: int) -> tuple[Segment, ...]:
        path, span, what = self._located(index)
        page = parse_json(read_span(path, span), what)
        sentences, infos = page.get("text_list"), page.get("image_info")
        if not _is_list(sentences, str) or not _is_list(infos, dict):
            raise DataError(f"{what} needs text_list and image_info", kind="bad_record")
        there = [number for number, info in enumerate(infos) if self._there(info)]
        similarities = _similarities(page, len(sentences), what)[there]
        options = self._options
        pairs = assign(similarities, min_similarity=options.min_similarity, max_images=options.max_images)
        if len(pairs) < max(1, options.min_images):
            raise DataError(f"{what} has {len(pairs)} pictures that fit its text", kind="filtered")
        before = {sentence: infos[there[picture]] for picture, sentence in pairs}
        items: list[str | Media] = []
        for number, sentence in enumerate(sentences):
            if number in before:
                items.append(self._media(before[number], what))
            if sentence.strip():
                items.append(usable_text(sentence, what))
        return page_segments(items, joint=" ", end_of_chunk=options.end_of_chunk)

    def _there(self, info):
        """Whether the picture is at hand, and its file large enough."""
        held, name = info.get("image_base64"), info.get("image_name")
        if held:
            size = len(held) * 3 // 4 - held[-2:].count("=") if isinstance(held, str) else self._options.min_bytes
        else:
            size = self._images.size_of(name) if isinstance(name, str) else None
        return size is not None and size >= self._options.min_bytes

    def _media(self, info, what):
        if not info.get("image_base64"):
            return self._images.media(info["image_name"], what)
        try:
            return self._images.media(base64.b64decode(info["image_base64"], validate=True), what)
        except (ValueError, TypeError, binascii.Error) as error:
            raise DataError(f"{what}: image_base64 cannot be read: {error}", kind="corrupt") from None


class Obelics(FileReader):
    """A page a row: `images` and `texts`, lists of the same length of which one holds each place."""

    def __init__(self, options: ObelicsOptions, **settings):
        super().__init__(options, **settings)
        self._rows = parquet_rows(self._paths, ["images", "texts"], self.cache)
        self._images = self._pictures(options.images)

    @property
    def files_key(self) -> str:
        return f"{self._rows.key} {self._images.key}"

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def indices(self) -> tuple[FileIndex, ...]:
        return (self._rows.index,)

    def file_of(self, index: int) -> str:
        return self._rows.path_of(index)

    def segments(self, index: int) -> tuple[Segment, ...]:
        path, row = self._rows.row(index)
        what = f"{self._what(index)} in {path}"
        images, texts = row["images"], row["texts"]
        if not isinstance(images, list) or not isinstance(texts, list) or len(images) != len(texts):
            raise DataError(f"{what}: images and texts must be lists of the same length", kind="bad_record")
        items: list[str | Media] = []
        shown = 0
        for image, text in zip(images, texts, strict=True):
            medium = None if image is None else self._media(image, what)
            if medium is not None and shown < self._options.max_images:
                items.append(medium)
                shown += 1
            if isinstance(text, str) and text.strip():
                items.append(usable_text(text, what))
        if shown < max(1, self._options.min_images):
            raise DataError(f"{what} has {shown} pictures at hand", kind="filtered")
        if not any(isinstance(item, str) for item in items):
            raise DataError(f"{what} has no text", kind="empty_text")
        return page_segments(items, joint="\n\n", end_of_chunk=self._options.end_of_chunk)

    def _media(self, image: Any, what: str) -> Media | None:
        """The medium of an item, or None for a picture that is not at hand."""
        name = image.get("path") if isinstance(image, dict) and image.get("bytes") is None else image
        if not isinstance(name, str):
            return None if name is None else self._images.media(name, what)
        if self._options.names == "url_sha256":
            found = self._images.named(hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest())
            return None if found is None else self._images.media(found, what)
        return self._images.media(name, what) if self._images.has(name) else None


def _similarities(page, sentences, what):
    """[pictures, sentences]; where the full matrix is not there, what the set's own assignment says."""
    infos = page["image_info"]
    try:
        if "similarity_matrix" in page:
            matrix = np.array(page["similarity_matrix"], np.float64)
        else:
            matrix = np.full((len(infos), sentences), -1.0)
            for number, info in enumerate(infos):
                matrix[number, int(info["matched_text_index"])] = float(info["matched_sim"])
        if not infos:
            matrix = np.zeros((0, sentences))
        if matrix.shape != (len(infos), sentences) or not np.isfinite(matrix).all():
            raise ValueError(f"a matrix of {matrix.shape}, not {(len(infos), sentences)}, of finite numbers is needed")
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise DataError(f"{what}: its similarities cannot be used: {error}", kind="bad_record") from None
    return matrix


def _is_list(value, item):
    return isinstance(value, list) and all(isinstance(entry, item) for entry in value)
