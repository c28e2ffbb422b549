"""Any data set -> ArrayRecord shards of whole examples, which the kind `array_record` reads back to the same.

A record is a serialized tf.train.Example of two features: `mmjax/segments`, the example as JSON, and `mmjax/pictures`,
the files of its frames in order:

    [{"text": "Two dogs. "}, {"frames": 1}, {"text": "A dog.", "loss": true, "end_of_chunk": true}]

Pictures are the bytes that the data set holds; frames that it has no files of (drawn ones, those of videos) are PNG.
A shard holds a run of the examples in their order, is written under another name and renamed when it is whole. Its
bytes are decided by the records, so that any machine writes the same; what was interrupted goes on by shards.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import io
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from mmjax.core.errors import DataError, InputError
from mmjax.core.example import Media, Segment, Text
from mmjax.data.images import resized
from mmjax.data.scaled import decode_scaled
from mmjax.data.source import ExampleSource, StoredSource
from mmjax.data.sources.options import PLACES
from mmjax.data.sources.pictures import PictureFile
from mmjax.data.sources.records import PICTURES, SEGMENTS
from mmjax.data.sources.serialized import serialize_example
from mmjax.data.workers import run_shared

EXAMPLES_VERSION = "mmjax examples 1"
_RECORDS_A_SHARD = 10_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What is written, and where: a picklable task, of which each shard is a part.

    described: the entry of the data set in its configuration, with all options spelled out, and the seed. size: 0 keeps
    pictures as they are; otherwise those whose shorter side is longer are shrunk to it and written as JPEG of that
    quality (1 to 95). key: changes when the shards would.
    """

    source: ExampleSource
    described: Mapping[str, Any]
    folder: Path
    shards: int
    size: int = 0
    quality: int = 90
    key: str = dataclasses.field(init=False)

    def __post_init__(self):
        if not _NAME.fullmatch(self.source.name):
            raise InputError(f"{self.source.name!r} cannot begin the names of files: letters, digits, '.', '_' and '-'")
        if not 1 <= self.shards <= 99_999:
            raise InputError(f"the number of shards must be from 1 to 99999, not {self.shards}")
        if self.size < 0 or not 1 <= self.quality <= 95:
            raise InputError(f"size must be 0 or more and quality from 1 to 95, not {self.size} and {self.quality}")

        described = {**self.described, "options": _what_decides(self.described["options"])}
        files = self.source.fingerprint if isinstance(self.source, StoredSource) else ""
        decided_by = (EXAMPLES_VERSION, files, described, len(self.source), self.shards, self.size, self.quality)
        text = json.dumps(decided_by, sort_keys=True)
        object.__setattr__(self, "key", hashlib.sha256(text.encode()).hexdigest()[:24])

    def shard_path(self, shard: int) -> Path:
        return self.folder / f"{self.source.name}-{shard:05d}-of-{self.shards:05d}.array_record"

    @property
    def facts_path(self) -> Path:
        """The file of facts, which is written last: where it is, the conversion is whole."""
        return self.folder / f"{self.source.name}.json"

    @property
    def unfinished(self) -> Path:
        """Folder of what is known of finished shards until all are."""
        return self.folder / f".{self.source.name}-{self.key}"


def default_shards(source: ExampleSource) -> int:
    """As many that each holds some 10,000 records."""
    return max(1, min(99_999, round(len(source) / _RECORDS_A_SHARD)))


def convert(
    conversion: Conversion,
    *,
    run: Callable[[Conversion, Sequence[int]], None] | None = None,
    processes: int | None = None,
) -> dict[str, Any]:
    """Writes the shards that are not there yet, and the facts of all; returns the facts.

    run: what writes shards, by default the processes of this machine; `mmjax.data.beam.run_pipeline` is another.
    Examples that cannot be read are left out, counted by kind, and listed in `NAME.bad_records.jsonl`.

    Raises:
      InputError: the folder holds another conversion under this name, or cannot be written.
    """
    try:
        _refuse_another(conversion)
        if conversion.facts_path.exists():
            return _read_json(conversion.facts_path)
        conversion.unfinished.mkdir(parents=True, exist_ok=True)
        lacking = [shard for shard in range(conversion.shards) if _shard_facts(conversion, shard) is None]
        if run is not None:
            run(conversion, lacking)
        else:
            tasks = [(shard,) for shard in lacking]
            work = functools.partial(write_shard, conversion)
            for _ in run_shared(work, tasks, what=f"writing {conversion.source.name}", processes=processes, least=2):
                pass
        return _finish(conversion)
    except OSError as error:
        raise InputError(f"{error.filename or conversion.folder} cannot be written: {error.strerror}") from None


def write_shard(conversion: Conversion, shard: int) -> None:
    """Writes one shard, whole or not at all."""
    count = len(conversion.source)
    first, stop = count * shard // conversion.shards, count * (shard + 1) // conversion.shards
    facts: dict[str, Any] = {"examples": 0, "pictures": 0, "left_out": []}
    path = conversion.shard_path(shard)
    partial = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.partial")
    try:
        _write_array_record(partial, _records(conversion, range(first, stop), facts))
        facts["bytes"] = partial.stat().st_size
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _write_json(_facts_of_shard(conversion, shard), facts)


def example_record(segments: Sequence[Segment], *, size: int = 0, quality: int = 90) -> tuple[bytes, int]:
    """The record of an example, and how many pictures it holds. Raises DataError for one that cannot be read."""
    items: list[dict[str, Any]] = []
    pictures: list[bytes] = []
    for segment in segments:
        if isinstance(segment, Media):
            files = [file for frame in segment.frames for file in _files(frame, size, quality)]
            pictures += files
            items.append({"frames": len(files)})
        elif isinstance(segment, Text):
            flags = {name: True for name in ("loss", "end_of_chunk", "control") if getattr(segment, name)}
            items.append({"text": segment.text, **flags})
    listed = json.dumps(items, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    return serialize_example({SEGMENTS: [listed], PICTURES: pictures}), len(pictures)


def _records(conversion: Conversion, part: range, facts: dict[str, Any]) -> Iterator[bytes]:
    for index in part:
        try:
            segments = conversion.source.load(index, 0).segments
            record, pictures = example_record(segments, size=conversion.size, quality=conversion.quality)
        except DataError as error:
            facts["left_out"].append({"index": index, "kind": error.kind, "message": str(error)})
            continue
        facts["examples"] += 1
        facts["pictures"] += pictures
        yield record


def _files(frame, size, quality):
    """The files of a frame, which may be several at once."""
    if isinstance(frame, PictureFile):
        return [_shrunk(frame.encoded(), size, quality) if size else frame.encoded()]
    made = frame() if callable(frame) else frame
    return [_png(picture) for picture in (made if made.ndim == 4 else made[None])]


def _png(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _shrunk(file, size, quality):
    """A JPEG of the picture with a shorter side of `size`; the file itself where it is no longer than that."""
    read = decode_scaled(file, size)
    height, width = read.height, read.width
    if min(height, width) <= size:
        return file
    scale = size / min(height, width)
    pixels = resized(read.pixels, max(size, round(height * scale)), max(size, round(width * scale)))
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=quality, colorsubsampling="420")


def _write_array_record(path, records):
    from array_record.python import array_record_module  # here: loading its library takes a while

    # A group a record, so that any is read alone; pictures are compressed already.
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    try:
        for record in records:
            writer.write(record)
    finally:
        writer.close()


def _what_decides(options):
    """The options of a data set that decide what is written: not where its files are, nor how pictures are decoded."""
    return {key: value for key, value in options.items() if key not in PLACES}


def _finish(conversion):
    """Writes the facts of all shards, and removes those of each."""
    name, left_out = conversion.source.name, []
    facts = {
        "name": name,
        "version": EXAMPLES_VERSION,
        "examples": 0,
        "pictures": 0,
        "bytes": 0,
        "shards": [],
        "left_out": {},
        "key": conversion.key,
        "source": {**conversion.described, "records": len(conversion.source)},
        "size": conversion.size,
        "quality": conversion.quality if conversion.size else 0,
    }
    for shard in range(conversion.shards):
        found = _shard_facts(conversion, shard)
        if found is None:
            raise InputError(f"{conversion.shard_path(shard)} was not written: give the same command again")
        left_out += found.pop("left_out")
        facts["shards"].append({"file": conversion.shard_path(shard).name, **found})
        for what in ("examples", "pictures", "bytes"):
            facts[what] += found[what]
    facts["left_out"] = dict(sorted(collections.Counter(record["kind"] for record in left_out).items()))
    lines = [{"id": f"{name}:0:{record.pop('index')}", **record} for record in left_out]
    listed = conversion.folder / f"{name}.bad_records.jsonl"
    listed.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for killed in conversion.folder.glob(f".{name}-?????-of-?????.array_record.*.partial"):
        killed.unlink(missing_ok=True)
    _write_json(conversion.facts_path, facts)
    shutil.rmtree(conversion.unfinished, ignore_errors=True)
    return facts


def _refuse_another(conversion):
    """Two conversions of one name in one folder would mix their shards."""
    name, folder, advice = conversion.source.name, conversion.folder, "give another --out, or remove it"
    there = [path for path in map(conversion.shard_path, range(conversion.shards)) if path.exists()]
    if conversion.facts_path.exists():
        found = _read_json(conversion.facts_path)
        if found is None or found.get("key") != conversion.key:
            raise InputError(f"{conversion.facts_path} is of another conversion (other files or settings): {advice}")
        if len(there) < conversion.shards:
            raise InputError(f"shards are missing that {conversion.facts_path} names: {advice}")
        return
    others = [path for path in folder.glob(f".{name}-*") if path.is_dir() and path != conversion.unfinished]
    others = [path for path in others if re.fullmatch(r"[0-9a-f]{24}", path.name.removeprefix(f".{name}-"))]
    if others:
        raise InputError(f"{others[0]} is of an unfinished conversion with other files or settings: {advice}")
    if there and not conversion.unfinished.exists():
        raise InputError(f"{there[0]} is there already, and not of a conversion: {advice}")


def _facts_of_shard(conversion, shard):
    return conversion.unfinished / f"{shard:05d}.json"


def _shard_facts(conversion, shard) -> dict[str, Any] | None:
    """What is known of a shard that is whole, or None."""
    facts, path = _read_json(_facts_of_shard(conversion, shard)), conversion.shard_path(shard)
    return facts if facts and path.exists() and path.stat().st_size == facts["bytes"] else None


def _read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _write_json(path, value):
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
