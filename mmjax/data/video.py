"""Video files -> frames: at even times or one of each scene, bounded, and strictly as pictures are read.

Files are opened by PyAV (`pip install 'mmjax[video]'`), as containers of a few kinds only: playlists and lists of other
files, which FFmpeg would follow, are no videos here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from mmjax.core.arrays import Float, UInt8
from mmjax.core.errors import ConfigError, DataError, InputError
from mmjax.data.images import MAX_PIXELS
from mmjax.data.sources.files import open_patiently

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,gif,asf"
# A change of more than this share of the pixels' colours begins a scene.
SCENE_CHANGE = 0.4
_SEEK_SECONDS = 4.0  # targets that lie further ahead are reached by way of a key frame
_LEVELS = 4  # of each colour, in histograms


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Which frames of a video are taken, and how much is read for them.

    frames: how many. at: "uniform", the middles of as many equal parts, or "scenes", the middles of scenes (colours
    that change at once begin one), of which those of weak changes are joined and long ones are cut until the number is
    met. shown_as: "frames" of one medium (for a resampler that knows of frames), or "pictures", each a medium of its
    own. times: a text before each medium says when its frames are shown ("1.5s", or "1.5s, 4.5s" of one of two).
    max_seconds: longer videos are bad records. max_decoded: how many frames may be decoded for one video.
    """

    frames: int = 8
    at: Literal["uniform", "scenes"] = "uniform"
    shown_as: Literal["frames", "pictures"] = "frames"
    times: bool = False
    max_seconds: float = 3600.0
    max_decoded: int = 20_000

    def __post_init__(self):
        if self.frames < 1 or self.max_decoded < self.frames or self.max_seconds <= 0:
            raise ConfigError(
                f"frames {self.frames} and max_seconds {self.max_seconds} must be above zero, max_decoded "
                f"{self.max_decoded} no less than frames"
            )


class Scenes(NamedTuple):
    """Where a video may be cut: when each scene begins, the share of its colours that changes there, and the end.

    Times are in seconds from the first frame.
    """

    seconds: Float[np.ndarray, " S"]
    changes: Float[np.ndarray, " S"]
    end: float


class Frames(NamedTuple):
    """Frames of a video, upright, and when each is shown, in seconds from its start."""

    pixels: tuple[UInt8[np.ndarray, "h w 3"], ...]
    seconds: tuple[float, ...]


def even_times(seconds: float, frames: int) -> tuple[float, ...]:
    """The middles of `frames` equal parts of a video."""
    return tuple(seconds * (number + 0.5) / frames for number in range(frames))


def duration(source: str | bytes, *, sampling: Sampling, max_pixels: int = MAX_PIXELS) -> float:
    """The seconds that a video (a path or the file's bytes) says it takes; frames are looked at only where it does not.

    Raises:
      DataError: as `read_frames`.
    """
    with _open(source, sampling, max_pixels) as video:
        return video.seconds()


def find_scenes(source: str | bytes, *, sampling: Sampling, max_pixels: int = MAX_PIXELS) -> Scenes:
    """The scenes of a video (a path or the file's bytes), all of whose frames are decoded for it.

    Raises:
      DataError: as `read_frames`.
    """
    with _open(source, sampling, max_pixels) as video:
        video.seconds()
        return video.scenes()


def read_frames(
    source: str | bytes,
    *,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    scenes: Scenes | None = None,
    places: Sequence[int] | None = None,
    max_pixels: int = MAX_PIXELS,
    finish: Callable[[UInt8[np.ndarray, "h w 3"]], UInt8[np.ndarray, "h2 w2 3"]] = lambda pixels: pixels,
) -> Frames:
    """The frames of a video (a path or the file's bytes) that `sampling` says, or those of them at `places`, in order.

    scenes: what `find_scenes` found, if it is known. A frame that is shown all the time from one to the next is given
    once, unless `places` are asked for. finish: what becomes of the pixels of each.

    Raises:
      InputError: PyAV is not installed.
      DataError: of kind "missing", "not_a_video", "too_large" (more than `max_pixels`, found before decoding),
        "too_long" (more seconds or decoded frames than `sampling` allows), "truncated" or "corrupt".
    """
    if sampling.at == "scenes" and scenes is None:
        scenes = find_scenes(source, sampling=sampling, max_pixels=max_pixels)
    with _open(source, sampling, max_pixels) as video:
        times = even_times(video.seconds(), sampling.frames) if scenes is None else middles(scenes, sampling.frames)
        pixels, seconds, before = [], [], None
        for frame in video.at(times if places is None else [times[place] for place in places]):
            if frame is not before or places is not None:
                pixels.append(finish(_upright(frame)))
                seconds.append(video.time_of(frame))
            before = frame
        return Frames(tuple(pixels), tuple(seconds))


def middles(scenes: Scenes, count: int) -> tuple[float, ...]:
    """When the scenes of a video have their middles: `count` times, in order.

    changes   .  .  #  .  .  .  .  .  .  end     2: the scenes are cut at #
    2               |
    3               |           |                3: the longer one is cut once more
    """
    strong = np.argsort(-scenes.changes, kind="stable")[: count - 1]
    cuts = sorted(scenes.seconds[strong].tolist())
    while len(cuts) < count - 1:
        edges = np.array([0.0, *cuts, scenes.end])
        longest = int(np.argmax(np.diff(edges)))
        cuts.insert(longest, float(edges[longest] + edges[longest + 1]) / 2)
    edges = np.array([0.0, *cuts, scenes.end])
    return tuple(((edges[:-1] + edges[1:]) / 2).tolist())


class _Video:
    """An open video. Times are in seconds from its first frame."""

    def __init__(self, container: Any, sampling: Sampling, max_pixels: int):
        self._container, self._sampling, self._max_pixels = container, sampling, max_pixels
        if not container.streams.video:
            raise DataError("the file holds no video", kind="not_a_video")
        self._stream = container.streams.video[0]
        context = self._stream.codec_context
        if context is None:
            raise DataError("the video is of a codec that cannot be read", kind="not_a_video")
        self._check_size(context.width, context.height)
        context.thread_count = 1  # the stream reads several examples at once
        context.options = {"err_detect": "explode", "max_pixels": str(max_pixels)}
        self._unit = self._stream.time_base
        self._start = float((self._stream.start_time or 0) * self._unit)
        self._rate = float(self._stream.average_rate or 25)
        self._decoded = 0

    def seconds(self) -> float:
        """How long the video is, as its header says, or else as its frames do."""
        if self._stream.duration:
            said = float(self._stream.duration * self._unit)
        elif self._container.duration:
            said = self._container.duration / 1_000_000 - self._start
        else:
            said = self.scenes().end
            self._container.seek(0)
        if said <= 0:
            raise DataError(f"the video states a length of {said:.1f} seconds", kind="corrupt")
        if said > self._sampling.max_seconds:
            raise DataError(
                f"the video takes {said:.1f} seconds, more than {self._sampling.max_seconds:g}", kind="too_long"
            )
        return said

    def time_of(self, frame: Any) -> float:
        return max(0.0, frame.time - self._start)

    def at(self, times: Sequence[float]) -> Iterator[Any]:
        """The frame that is shown at each time: the last one that begins by then."""
        frames, shown, coming = self._decode(), None, None
        for time in times:
            reached = self.time_of(coming or shown) if coming or shown else 0.0
            if time - reached > _SEEK_SECONDS:
                self._container.seek(int((time + self._start) / self._unit), stream=self._stream)
                frames, shown, coming = self._decode(), None, None
            while coming is None or self.time_of(coming) <= time:
                shown, coming = coming or shown, next(frames, None)
                if coming is None:
                    self._check_end(shown, time)
                    break
            yield shown or coming  # before the first frame, that one

    def scenes(self) -> Scenes:
        """Where the colours change at once from one frame to the next, and when the last frame ends."""
        begins, changes, before, seconds = [], [], None, 0.0
        for frame in self._decode():
            colours, seconds = _colours(frame), self.time_of(frame)
            change = 0.0 if before is None else 0.5 * float(np.abs(colours - before).sum())
            if change > SCENE_CHANGE:
                begins.append(seconds)
                changes.append(change)
            before = colours
        if before is None:
            raise DataError("the video holds no frame", kind="truncated")
        return Scenes(np.array(begins), np.array(changes), seconds + 1 / self._rate)

    def _decode(self):
        for frame in self._container.decode(self._stream):
            self._decoded += 1
            if self._decoded > self._sampling.max_decoded:
                limit = self._sampling.max_decoded
                raise DataError(f"more than {limit} frames had to be decoded", kind="too_long")
            self._check_size(frame.width, frame.height)
            if frame.is_corrupt:
                raise DataError(f"frame {self._decoded} is corrupt", kind="corrupt")
            if frame.time is None:
                raise DataError("its frames have no times", kind="corrupt")
            yield frame

    def _check_size(self, width, height):
        if width * height > self._max_pixels:
            raise DataError(
                f"frames of {width} x {height} pixels, more than the limit of {self._max_pixels}", kind="too_large"
            )

    def _check_end(self, last, time):
        """The end of the file, where a frame of `time` is asked for, must be that of the last frame."""
        if last is None:
            raise DataError("the video holds no frame there", kind="truncated")
        long = float(last.duration * self._unit) if last.duration else 1 / self._rate
        ends = self.time_of(last) + max(long, 1 / self._rate)
        if time > ends + max(0.5, 0.05 * time):
            raise DataError(f"the video ends after {ends:.1f} seconds, before {time:.1f}", kind="truncated")


@contextlib.contextmanager
def _open(source, sampling, max_pixels):
    av = _pyav()
    what = "a video" if isinstance(source, bytes) else os.fspath(source)
    try:
        with contextlib.ExitStack() as opened:
            file = opened.enter_context(
                io.BytesIO(source) if isinstance(source, bytes) else open_patiently(os.fspath(source))
            )
            options = {"format_whitelist": FORMATS, "protocol_whitelist": ""}
            try:
                container = opened.enter_context(av.open(file, container_options=options, metadata_errors="replace"))
            except (av.error.FFmpegError, OSError) as error:
                raise DataError(
                    f"no video in a known format, or its end is missing: {error.strerror}", kind="not_a_video"
                ) from None
            yield _Video(container, sampling, max_pixels)
    except DataError as error:
        raise DataError(f"{what}: {error}", kind=error.kind) from None
    except av.error.FFmpegError as error:
        kind = "truncated" if isinstance(error, av.error.EOFError) else "corrupt"
        raise DataError(f"{what} cannot be decoded, the file is {kind}: {error.strerror}", kind=kind) from None
    except OSError as error:
        raise DataError(f"{what} cannot be read: {error.strerror}", kind="missing") from None


def _pyav():
    try:
        import av
    except ImportError:
        raise InputError("videos are read by PyAV: pip install 'mmjax[video]'") from None
    return av


def _upright(frame):
    """RGB pixels, turned as the file says."""
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)).copy()


def _colours(frame):
    """The share of a frame's pixels in each of 64 colours, of a small copy of it."""
    small = frame.reformat(width=48, height=48, format="rgb24", interpolation="AREA").to_ndarray().astype(np.int64)
    levels = small * _LEVELS // 256
    numbers = (levels[..., 0] * _LEVELS + levels[..., 1]) * _LEVELS + levels[..., 2]
    return np.bincount(numbers.ravel(), minlength=_LEVELS**3) / numbers.size
