"""Pictures that records name or hold, as media that are decoded when they are asked for."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.core.arrays import UInt8
from mmjax.core.errors import DataError, InputError
from mmjax.core.example import FileFrame, Media
from mmjax.data.sources.files import find_files, inside, patiently, read_at
from mmjax.data.sources.options import FilesOptions
from mmjax.data.sources.tars import PICTURES, TarFolder
from mmjax.data.transforms.load import Frames, PictureLoader


@dataclasses.dataclass(frozen=True)
class PictureFile(FileFrame):
    """A frame that is decoded when it is called: `read` gives its file, as bytes or as a path. `what` names the record.

    Transforms draw by `key`; without it there are none. Calling it, and `encoded`, raise DataError for a file that
    cannot be read, or is no picture.
    """

    read: Callable[[], bytes | str]
    decode: PictureLoader
    what: str
    key: int | None = None

    def __call__(self, out: UInt8[np.ndarray, "h w 3"] | None = None) -> Frames:
        try:
            return self.decode(self.read(), self.key, out)
        except DataError as error:
            raise DataError(f"{self.what}: {error}", kind=error.kind) from None

    def with_key(self, key: int) -> PictureFile:
        return dataclasses.replace(self, key=key)

    def encoded(self) -> bytes:
        """The file's bytes, as they lie in the data set."""
        try:
            file = self.read()
            if isinstance(file, bytes):
                return file
            return read_at(file, 0, patiently(file, functools.partial(os.path.getsize, file)))
        except OSError as error:
            raise DataError(f"{self.what}: a picture cannot be read: {error.strerror}", kind="missing") from None
        except DataError as error:
            raise DataError(f"{self.what}: {error}", kind=error.kind) from None


class Pictures:
    """Makes media of what stands for a picture: a path, a file's bytes, or a struct of both.

    Paths begin in `images`: a folder, or tar files; "" is the folder `beside`.
    """

    def __init__(self, options: FilesOptions, image_size: int, *, images: str, beside: str, cache: Path):
        self.loader = PictureLoader(
            size=image_size,
            fit=options.fit,
            tiles=options.tiles,
            augment=options.augment,
            max_pixels=options.max_pixels,
            min_side=options.min_side,
        )
        self._folder = os.path.expanduser(images) or beside
        self._tars = None
        if not os.path.isdir(self._folder):
            if not images.endswith(".tar"):
                raise InputError(f"images: there is no folder {images} (tar files end in .tar)")
            self._tars = TarFolder(find_files([images]), cache)

    @property
    def key(self) -> str:
        """Changes when pictures come to lie in the folder itself, or archives change."""
        return self._tars.key if self._tars is not None else str(os.stat(self._folder).st_mtime_ns)

    def media(self, picture: Any, what: str) -> Media:
        """A medium of one frame. `what` names the record. Raises DataError for what cannot stand for a picture."""
        if isinstance(picture, Mapping):
            held, name = picture.get("bytes"), picture.get("path")
            picture = held if held is not None else name
        if isinstance(picture, (bytes, bytearray, memoryview)):
            return self.decode_later(functools.partial(bytes, picture), what)
        if isinstance(picture, str) and picture.startswith("data:"):
            return self.decode_later(functools.partial(bytes, _data_address(picture, what)), what)
        if isinstance(picture, str) and picture:
            return self.decode_later(functools.partial(self._read, picture), what)
        raise DataError(
            f"{what}: {type(picture).__name__} is not a picture (a path, or a file's bytes)", kind="missing"
        )

    def has(self, name: str) -> bool:
        """Whether there is a picture of that name."""
        return self.size_of(name) is not None

    def size_of(self, name: str) -> int | None:
        """The bytes of the file of that name, or None where there is none."""
        if self._tars is not None:
            return self._tars.size_of(name)
        try:
            path = inside(self._folder, name)
            return patiently(path, functools.partial(os.path.getsize, path))
        except (DataError, OSError):
            return None

    def named(self, stem: str) -> str | None:
        """The name of the picture `stem` with the extension that it has, or None."""
        return next((name for name in (f"{stem}.{end}" for end in PICTURES) if self.has(name)), None)

    def decode_later(self, read: Callable[[], bytes | str], what: str) -> Media:
        """A medium whose file `read()` gives, as bytes or as a path."""
        return Media((PictureFile(read, self.loader, what),))

    def _read(self, name):
        if self._tars is None:
            return inside(self._folder, name)
        data = self._tars.read(name)
        if data is None:
            raise DataError(f"{name[:200]} is in none of the tar files", kind="missing")
        return data


def _data_address(picture, what):
    head, _, body = picture.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError("not base64")
        return base64.b64decode(body, validate=True)
    except (ValueError, binascii.Error) as error:
        raise DataError(f"{what}: a data address that cannot be read: {error}", kind="corrupt") from None
