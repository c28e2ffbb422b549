"""Where the scenes of videos begin, found once and kept: for that every frame of a video is decoded."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from mmjax.data.sources.files import identity, replacing
from mmjax.data.sources.index import read_array
from mmjax.data.video import SCENE_CHANGE, Sampling, Scenes, find_scenes

_VERSION = f"scenes {SCENE_CHANGE} 1"


class KeptScenes:
    """The scenes of videos, a small file for each in `cache`. It is known by place, size and time of change of its
    video, or by the content of one that lies in an archive; how many frames are taken does not matter.
    """

    def __init__(self, cache: Path, sampling: Sampling, max_pixels: int):
        self._cache, self._sampling, self._max_pixels = cache, sampling, max_pixels

    def of(self, video: str | bytes) -> Scenes:
        """The scenes of a video, a path or the file's bytes.

        Raises:
          DataError: as `mmjax.data.video.read_frames`.
          InputError: they cannot be kept in the cache folder.
        """
        if isinstance(video, bytes):
            key = hashlib.blake2b(_VERSION.encode() + video, digest_size=12).hexdigest()
        else:
            key = identity([video], self._cache, _VERSION)
        kept = self._cache / "scenes" / key[:2] / f"{key}.npy"
        table = _read(kept)
        if table is None:
            found = find_scenes(video, sampling=self._sampling, max_pixels=self._max_pixels)
            table = np.array([[*found.seconds, found.end], [*found.changes, 0.0]])
            with replacing(kept) as partial, open(partial, "wb") as file:
                np.save(file, table)
        return Scenes(table[0, :-1], table[1, :-1], float(table[0, -1]))


def _read(path):
    table = read_array(path)
    return None if table is None or table.ndim != 2 or table.shape[0] != 2 or not table.shape[1] else table
