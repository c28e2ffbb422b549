"""Demonstrations whose pictures are most similar to the query's: features of pictures, kept on disk, and the choice.

RICES, retrieval-based in-context example selection (Yang et al. 2022, "An empirical study of GPT-3 for few-shot
knowledge-based VQA"; Alayrac et al. 2022, appendix A.2): cosine similarity, the most similar demonstration last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mmjax.core.arrays import Float
from mmjax.core.errors import DataError
from mmjax.core.example import Media
from mmjax.data.sources.files import replacing

# Pictures -> a unit vector for each.
Embed = Callable[[Sequence[Media]], Float[np.ndarray, "N D"]]


def most_similar(
    query: Float[np.ndarray, " D"], vectors: Float[np.ndarray, "N D"], pool: Sequence[int], count: int
) -> list[int]:
    """The `count` of `pool` that are most similar to `query`, the most similar last; of equal ones the first come last.

    A vector of NaN, of a picture that could not be read, is never chosen before one that could.
    """
    order = by_similarity(query, vectors[np.asarray(pool, np.int64)])[:count]
    return [pool[place] for place in order[::-1]]


def by_similarity(query: Float[np.ndarray, " D"], vectors: Float[np.ndarray, "N D"]) -> list[int]:
    """Numbers of all vectors, the most similar to `query` first."""
    # In float64, so that what is equal does not come to differ by the order of a sum.
    cosines = np.nan_to_num(vectors.astype(np.float64) @ query.astype(np.float64), nan=-2.0)
    return np.argsort(-cosines.round(6), kind="stable").tolist()


def cached_features(
    media: Sequence[Media],
    embed: Embed,
    *,
    encoder: str,
    folder: Path | None,
    part: int = 256,
) -> Float[np.ndarray, "N D"]:
    """A vector for each picture; rows of NaN for those that cannot be decoded.

    They are kept in `folder` (None: nowhere) under the contents of the pictures and of the encoder (`encoder` stands
    for its weights), so that either may change or move without harm.
    """
    path = None
    if folder is not None:
        digest = hashlib.blake2b(encoder.encode(), digest_size=16)
        for medium in media:
            digest.update(_content(medium))
        path = folder / f"features-{digest.hexdigest()}.npy"
        if path.is_file():
            return np.load(path, allow_pickle=False)
    parts, bad = [], []
    for start in range(0, len(media), part):
        good = []
        for number, medium in enumerate(media[start : start + part], start):
            try:
                good.append(Media(medium.load()))
            except DataError:
                bad.append(number)
        if good:
            parts.append(np.asarray(embed(good), np.float32))
    found = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
    vectors = np.full((len(media), found.shape[1]), np.nan, np.float32)
    vectors[np.setdiff1d(np.arange(len(media)), bad)] = found
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as whole, open(whole, "wb") as file:
            np.save(file, vectors)
    return vectors


def _content(medium: Media) -> bytes:
    """A digest of the first frame, as its file has it where it comes from one."""
    frame = medium.frames[0] if medium.frames else b""
    try:
        if hasattr(frame, "read"):  # its file: the bytes, or a path
            source = frame.read()
            data = source if isinstance(source, bytes) else Path(source).read_bytes()
        else:
            frame = frame() if callable(frame) else frame
            data = repr(frame.shape).encode() + np.ascontiguousarray(frame).tobytes()
    except (DataError, OSError) as error:
        data = type(error).__name__.encode()
    return hashlib.blake2b(data, digest_size=16).digest()
