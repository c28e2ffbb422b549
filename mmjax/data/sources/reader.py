"""What all readers of files share: where their files and caches are, how they travel, and texts that can be used."""

from __future__ import annotations

import abc
import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

from mmjax.core.config import to_tree
from mmjax.core.errors import DataError
from mmjax.core.example import Example, Media, Segment, Text
from mmjax.data.keyed import Dice, fold, key_of
from mmjax.data.sources.files import cache_folder, find_files
from mmjax.data.sources.index import FileIndex
from mmjax.data.sources.options import PLACES, FilesOptions, PairOptions
from mmjax.data.sources.pictures import Pictures
from mmjax.data.transforms.words import in_template, with_typos, words_dropped

MAX_CHARACTERS = 4 << 20


class FileReader(abc.ABC):
    """A data set of files. A process that measures it gets its settings, and opens the files itself.

    Attributes:
      cache: folder of what is measured once.
    """

    folders = False  # whether `paths` may name folders

    def __init__(self, options: FilesOptions, *, name: str, seed: int, image_size: int):
        self.name, self._options, self._seed, self._image_size = name, options, seed, image_size
        self._paths = find_files(options.paths, folders=self.folders)
        self.cache = cache_folder(options.cache, self._paths)

    def __reduce__(self):
        return functools.partial(
            type(self), self._options, name=self.name, seed=self._seed, image_size=self._image_size
        ), ()

    @property
    @abc.abstractmethod
    def files_key(self) -> str:
        """Changes when a file that texts come from does."""

    @property
    def fingerprint(self) -> str:
        """Changes when the texts of examples, or the number of their media, may."""
        blind = {*PLACES, "fit", "max_pixels", "min_side", "augment", "tiles"}  # which change neither
        tree = {key: value for key, value in to_tree(self._options).items() if key not in blind}
        drawn_by = (self._seed, self.name) if self._rewords else ()
        return repr((type(self).__name__, self.files_key, sorted(tree.items()), *drawn_by))

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def segments(self, index: int) -> tuple[Segment, ...]:
        """Record `index`. Raises DataError for one that cannot be used."""

    @property
    def indices(self) -> tuple[FileIndex, ...]:
        """The indices of records that are kept."""
        return ()

    def file_of(self, index: int) -> str:
        """The file that record `index` lies in, or "" where no single one holds it."""
        return ""

    def load(self, index: int, epoch: int) -> Example:
        """Example `index`; epochs differ in the transforms of pictures alone."""
        segments = self.segments(index)
        if self._rewords:
            segments = reworded(segments, self._options, Dice(fold(key_of(self._seed, self.name, "words"), index)))
        if not self._options.augment.is_off:
            key = fold(key_of(self._seed, self.name, "pictures"), index, epoch)
            segments = tuple(
                segment.keyed(fold(key, place)) if isinstance(segment, Media) else segment
                for place, segment in enumerate(segments)
            )
        return Example(f"{self.name}:{epoch}:{index}", segments)

    @property
    def _rewords(self) -> bool:
        return isinstance(self._options, PairOptions) and self._options.rewords

    def _what(self, index: int) -> str:
        return f"record {index} of {self.name}"

    def _pictures(self, images: str = "") -> Pictures:
        beside = os.path.dirname(self._paths[0]) or "."
        return Pictures(self._options, self._image_size, images=images, beside=beside, cache=self.cache)


class IndexedReader(FileReader):
    """A data set whose records an index finds in its files; `_index` is set by each kind."""

    _index: FileIndex

    @property
    def files_key(self) -> str:
        return self._index.key

    def __len__(self) -> int:
        return len(self._index)

    @property
    def indices(self) -> tuple[FileIndex, ...]:
        return (self._index,)

    def file_of(self, index: int) -> str:
        return self._index[index][0]

    def _located(self, index: int) -> tuple[str, Any, str]:
        """The file of record `index`, its place there, and what an error calls it."""
        path, place = self._index[index]
        return path, place, f"{self._what(index)} in {path}"


def usable_text(value: Any, what: str, *, strip: bool = True) -> str:
    """A text to be learned, without white space around it.

    Raises:
      DataError: of kind "empty_text", or as `valid_text`.
    """
    if value is None:
        raise DataError(f"{what} has no text", kind="empty_text")
    text = valid_text(value, what)
    stripped = text.strip()
    if not stripped:
        raise DataError(f"{what}: its text is empty", kind="empty_text")
    return stripped if strip else text


def valid_text(value: Any, what: str) -> str:
    """A text, perhaps given as UTF-8.

    Raises:
      DataError: of kind "bad_text" (not text, or not valid Unicode) or "too_long".
    """
    try:
        if isinstance(value, bytes):
            value = value.decode("utf-8")
        elif isinstance(value, str):
            value.encode("utf-8")
        else:
            raise DataError(f"{what}: its text is a {type(value).__name__}", kind="bad_text")
    except UnicodeError as error:
        raise DataError(f"{what}: its text is not valid Unicode: {error.reason}", kind="bad_text") from None
    if len(value) > MAX_CHARACTERS:
        raise DataError(f"{what}: a text of {len(value)} characters, more than {MAX_CHARACTERS}", kind="too_long")
    return value


def pair_segments(media: Sequence[Media], text: str, *, prompt: str, end_of_chunk: bool) -> tuple[Segment, ...]:
    """Pictures, the prompt (without loss) if there is any, and the text that is learned."""
    return (*media, *([Text(prompt)] if prompt else []), Text(text, loss=True, end_of_chunk=end_of_chunk))


def reworded(segments: Sequence[Segment], options: PairOptions, dice: Dice) -> tuple[Segment, ...]:
    """A pair whose text lost words, is mistyped and stands in a template, as the options have it.

    An example of several learned texts is a page or a conversation, and stays as it is.
    """
    learned = [place for place, segment in enumerate(segments) if isinstance(segment, Text) and segment.loss]
    if len(learned) != 1:
        return tuple(segments)
    (place,) = learned
    text = segments[place].text
    if options.drop_words:
        text = words_dropped(text, dice, share=options.drop_words)
    if options.typos:
        text = with_typos(text, dice, share=options.typos) or text
    if options.templates:
        text = in_template(text, dice.choice(options.templates))
    return (*segments[:place], dataclasses.replace(segments[place], text=text), *segments[place + 1 :])


def page_segments(items: Sequence[str | Media], *, joint: str, end_of_chunk: bool) -> tuple[Segment, ...]:
    """An interleaved page. Texts that follow each other are joined; the last one of a picture ends its chunk.

    a | b  IMAGE  c  IMAGE  IMAGE  d   ->   Text(a b), IMAGE, Text(c, end), IMAGE, IMAGE, Text(d, end)

    Flamingo (Alayrac et al. 2022, section 3.4) ends the chunk before each picture and at the end of the page; where a
    picture has no text there is no chunk to end, nor before the first picture.
    """
    segments: list[Segment] = []
    for item in items:
        if isinstance(item, Media):
            segments.append(item)
        elif segments and isinstance(segments[-1], Text):
            segments[-1] = dataclasses.replace(segments[-1], text=f"{segments[-1].text}{joint}{item}")
        else:
            segments.append(Text(item, loss=True, end_of_chunk=end_of_chunk and bool(segments)))
    return tuple(segments)
