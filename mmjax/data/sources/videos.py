"""`video`: rows that name videos and hold texts; and videos that records of any kind name, as media."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import numpy as np

from mmjax.core.arrays import UInt8
from mmjax.core.errors import DataError
from mmjax.core.example import KeyedFrame, Media, Segment, Text
from mmjax.data.sources.options import FilesOptions, VideoOptions
from mmjax.data.sources.pictures import Pictures
from mmjax.data.sources.reader import FileReader
from mmjax.data.sources.scenes import KeptScenes
from mmjax.data.sources.tables import Csv, Jsonl
from mmjax.data.transforms.load import PictureLoader
from mmjax.data.video import Sampling, duration, even_times, middles, read_frames


@dataclasses.dataclass(frozen=True)
class VideoFile(KeyedFrame):
    """Frames that are decoded when it is called: those that `sampling` says, or those at `places` among them.

    read: gives the file, as bytes or as a path. what: names the record. key: all frames draw their transforms by it.
    """

    read: Callable[[], bytes | str]
    loader: PictureLoader
    sampling: Sampling
    kept: KeptScenes
    what: str
    places: tuple[int, ...] | None = None
    key: int | None = None

    def __call__(self) -> UInt8[np.ndarray, "F h w 3"]:
        try:
            file = self.read()
            shown = read_frames(
                file,
                sampling=self.sampling,
                scenes=self._scenes(file),
                places=self.places,
                max_pixels=self.loader.max_pixels,
                finish=self._finish,
            )
        except DataError as error:
            raise DataError(f"{self.what}: {error}", kind=error.kind) from None
        return np.stack(shown.pixels)

    def with_key(self, key: int) -> VideoFile:
        return dataclasses.replace(self, key=key)

    def times(self) -> tuple[float, ...]:
        """When the frames are shown, in seconds. Raises DataError for a file that does not say how long it is."""
        try:
            file = self.read()
            scenes = self._scenes(file)
            if scenes is not None:
                return middles(scenes, self.sampling.frames)
            seconds = duration(file, sampling=self.sampling, max_pixels=self.loader.max_pixels)
        except DataError as error:
            raise DataError(f"{self.what}: {error}", kind=error.kind) from None
        return even_times(seconds, self.sampling.frames)

    def _scenes(self, file):
        return self.kept.of(file) if self.sampling.at == "scenes" else None

    def _finish(self, pixels):
        height, width = pixels.shape[:2]
        if min(height, width) < self.loader.min_side:
            raise DataError(
                f"frames of {width} x {height} pixels, a side has at least {self.loader.min_side}", kind="too_small"
            )
        return self.loader.of_pixels(pixels, self.key)


class Videos(Pictures):
    """Makes media of what stands for a video, as `Pictures` does of pictures; a video is never cut into tiles."""

    def __init__(self, options: FilesOptions, image_size: int, *, sampling: Sampling, **places):
        super().__init__(dataclasses.replace(options, tiles=0), image_size, **places)
        self._sampling = sampling
        self._scenes = KeptScenes(places["cache"], sampling, options.max_pixels)

    def decode_later(self, read: Callable[[], bytes | str], what: str) -> Media:
        """A medium whose file `read()` gives, as bytes or as a path."""
        return Media((VideoFile(read, self.loader, self._sampling, self._scenes, what),))

    def parts(self, medium: Media) -> tuple[str | Media, ...]:
        """A video as `sampling` has it shown: one medium, or one for each of its frames, perhaps after their times.

        With times each has its frame, also where it is the one before, still shown.

        Raises:
          DataError: a video that does not say how long it is, where times are asked for.
        """
        (file,) = medium.frames
        count = self._sampling.frames
        if self._sampling.shown_as == "frames":
            if not self._sampling.times:
                return (medium,)
            times = ", ".join(map(_spelled, file.times()))
            return (times, Media((dataclasses.replace(file, places=tuple(range(count))),)))
        media = [Media((dataclasses.replace(file, places=(place,)),)) for place in range(count)]
        if not self._sampling.times:
            return tuple(media)
        times = map(_spelled, file.times())
        return tuple(part for pair in zip(times, media, strict=True) for part in pair)


def _spelled(seconds):
    return f"{seconds:.1f}s"


class Video(FileReader):
    """A row of JSONL or CSV: one video or several, perhaps a question, and a text."""

    def __init__(self, options: VideoOptions, **settings):
        super().__init__(options, **settings)
        csv = all(path.endswith(".csv") for path in self._paths)
        self._table = (_CsvOfVideos if csv else _JsonlOfVideos)(options, **settings)
        self._videos = self._table.pictures

    @property
    def files_key(self) -> str:
        return f"{self._table.files_key} {self._videos.key if self._options.video.times else ''}"

    def __len__(self) -> int:
        return len(self._table)

    @property
    def indices(self):
        return self._table.indices

    def file_of(self, index: int) -> str:
        return self._table.file_of(index)

    def segments(self, index: int) -> tuple[Segment, ...]:
        segments: list[Segment] = []
        for segment in self._table.segments(index):
            parts = self._videos.parts(segment) if isinstance(segment, Media) else (segment,)
            segments += [Text(part) if isinstance(part, str) else part for part in parts]
        return tuple(segments)


class _OfVideos:
    """A table whose column of pictures names videos."""

    def _pictures(self, images=""):
        beside = os.path.dirname(self._paths[0]) or "."
        settings = {"sampling": self._options.video, "images": images, "beside": beside, "cache": self.cache}
        self.pictures = Videos(self._options, self._image_size, **settings)
        return self.pictures


class _JsonlOfVideos(_OfVideos, Jsonl):
    pass


class _CsvOfVideos(_OfVideos, Csv):
    pass
