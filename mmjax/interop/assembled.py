"""A checkpoint that holds only what was trained, made whole with the models that it was built upon.

OpenFlamingo's published weights are such: resampler, cross-attention and embeddings, upon a CLIP and a language model.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.core.arrays import Shaped
from mmjax.core.errors import CheckpointError, InputError
from mmjax.core.folders import check_new, new_folder
from mmjax.interop.configs import read_config, write_config
from mmjax.interop.engine import Inspection, copy_side_files, inspect, open_config
from mmjax.interop.family import Family, Part, Place
from mmjax.interop.layout import Entry, Piece, choose_spelling, lay_out
from mmjax.interop.processing.settings import processor_tree
from mmjax.interop.tensors import open_folder, write_folder

# A parameter wherever the layers are cut: which numbered layers, which of them, and the rest of its path.
_Spot = tuple[str, int, str]


def assemble(
    trained: str | Path, parts: Mapping[str, str | Path], folder: str | Path, *, max_shard_bytes: int = 5_000_000_000
) -> None:
    """Writes `folder`: the tensors of `trained`, and for all others those of the models in `parts`.

    The parts' tables say what becomes of their tensors, so a part may lie in any layout of a model of that kind (a
    tower of CLIP for that of open_clip), or within a larger model. Types stay as they are; tensors go one by one.

    Args:
      trained: a folder with safetensors and a config.json, in which the parts' own configs may be left out, in whole or
        by keys: they are then those of `parts`.
      parts: field of our config ("vision", "decoder") -> folder.

    Raises:
      InputError: no such part, or a model of another kind; a folder that is not empty.
      CheckpointError: tensors that are missing, left over or of the wrong shape; all of them are listed.
    """
    check_new(folder)
    trained = Path(trained)
    outside, family = open_config(trained)
    plans = {field: inspect(path) for field, path in parts.items()}
    for field, plan in plans.items():
        outside = _with_config(_part(family, field), plan, outside)
    family = family.resolve(outside)
    tensors = open_folder(trained)
    spelling = choose_spelling(family, tensors)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    config = read_config(family, outside, family.all_detected(shapes, spelling))
    entries = {name: entry for name, entry in lay_out(family, config, spelling).entries.items() if not entry.tied}
    spots = {piece: _spot(family.all_places(config), piece) for entry in entries.values() for piece in entry.pieces}
    sources = {spot: source for field, plan in plans.items() for spot, source in _sources(family, field, plan)}
    ignored = [name for name in tensors if any(re.fullmatch(pattern, name) for pattern in family.all_ignored())]
    lines = [f"left over: {name}" for name in sorted(set(tensors) - set(entries) - set(ignored))]
    needed = set(spots.values())
    layers = {spot: source for spot, source in sources.items() if spot[0]}
    lines += [f"left over: {source.name} of a part" for spot, source in layers.items() if spot not in needed]
    for name, entry in entries.items():
        lines += _problems(name, entry, shapes, [sources.get(spots[piece]) for piece in entry.pieces])
    if lines:
        raise CheckpointError(f"{trained} and its parts do not make a whole model:\n  " + "\n  ".join(lines))

    def contents(name: str) -> Shaped[np.ndarray, "..."]:
        if name in tensors:
            return tensors[name].read()
        entry = entries[name]
        return entry.transform.to_outside([sources[spots[piece]].read() for piece in entry.pieces])

    types = {
        name: tensors[name].dtype if name in tensors else sources[spots[entry.pieces[0]]].dtype
        for name, entry in entries.items()
    }
    with new_folder(folder) as made:
        write_folder(made, {name: entry.shape for name, entry in entries.items()}, types, contents, max_shard_bytes)
        (made / "config.json").write_text(json.dumps(outside, indent=2, sort_keys=True) + "\n")
        for field, source in parts.items():
            _copy_files_of_part(field, Path(source), made)
        copy_side_files(trained, made)  # what lies beside the trained weights holds over the parts'


def _copy_files_of_part(field: str, source: Path, made: Path) -> None:
    """How pictures are processed, of the picture encoder; all else, the tokenizer first, of the language model."""
    if field != "vision":
        copy_side_files(source, made)
        return
    try:
        tree, _ = processor_tree(source)
    except InputError:
        return  # it says nothing of pictures
    (made / "preprocessor_config.json").write_text(json.dumps(dict(tree), indent=2, sort_keys=True) + "\n")


@dataclasses.dataclass(frozen=True)
class _Source:
    """One parameter, or one layer of it, in a part's checkpoint."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], Shaped[np.ndarray, "..."]]


def _part(family: Family, field: str) -> Part:
    for part in family.parts:
        if part.field == field:
            return part
    known = ", ".join(part.field for part in family.parts)
    raise InputError(f"the family {family.model_type} has no part {field!r}; it has {known or 'none'}")


def _inner(part: Part, plan: Inspection) -> tuple[str, Any]:
    """Where in a part's folder the part is, as a prefix of paths and names, and its config."""
    if isinstance(plan.config, part.family.config):
        return "", plan.config
    for inner in plan.family.parts:
        config = getattr(plan.config, inner.field)
        if isinstance(config, part.family.config):
            return inner.field, config
    raise InputError(
        f"{plan.origin.folder} is of the family {plan.family.model_type}, which has no such {part.field} as is needed"
    )


def _with_config(part: Part, plan: Inspection, outside: Mapping[str, Any]) -> dict[str, Any]:
    """The whole config, with what it leaves out of a part's taken from the part's folder."""
    inner, config = _inner(part, plan)
    if not part.key:
        return dict(outside)
    if not inner and plan.family.model_type in [family.model_type for family in part.families]:
        found = dict(plan.origin.config)
    else:
        found = write_config(part.family, config, {})
    return {**outside, part.key: {**found, **outside.get(part.key, {})}}


def _spot(places: Mapping[str, Mapping[int, Place]], piece: Piece) -> _Spot:
    for name, numbered in places.items():
        for number, place in numbered.items():
            if place.index == piece.index and piece.path.startswith(f"{place.prefix}/"):
                return name, number, piece.path.removeprefix(f"{place.prefix}/")
    return "", 0, piece.path


def _sources(family: Family, field: str, plan: Inspection) -> Iterator[tuple[_Spot, _Source]]:
    """All parameters of a part's folder, by where they are in the whole model."""
    inner, _ = _inner(_part(family, field), plan)
    places = plan.family.all_places(plan.config)

    def renamed(name, separator):
        start = f"{inner}{separator}" if inner else ""
        return f"{field}{separator}{name.removeprefix(start)}" if name.startswith(start) else None

    for name, tensor in plan.tensors.items():
        entry = plan.layout.entries[name]
        for position, piece in enumerate(() if entry.tied else entry.pieces):
            layers, number, path = _spot(places, piece)
            spot = (renamed(layers, "."), number, path) if layers else ("", 0, renamed(path, "/"))
            if None not in spot:
                yield spot, _Source(name, piece.shape, tensor.dtype, _reader(entry, tensor, position))


def _reader(entry: Entry, tensor, position: int) -> Callable[[], Shaped[np.ndarray, "..."]]:
    shapes = [piece.shape for piece in entry.pieces]
    return lambda: entry.transform.to_inside(tensor.read(), shapes)[position]


def _problems(
    name: str, entry: Entry, trained: Mapping[str, tuple[int, ...]], found: list[_Source | None]
) -> list[str]:
    """What is wrong with one tensor of the whole, a line each."""
    if name in trained:
        fits = trained[name] == entry.shape
        return [] if fits else [f"wrong shape: {name} is {list(trained[name])}, needed is {list(entry.shape)}"]
    if None in found:
        return [f"missing: {name} {list(entry.shape)}"]
    return [
        f"wrong shape: {source.name} makes {list(source.shape)}, needed for {name} is {list(piece.shape)}"
        for piece, source in zip(entry.pieces, found, strict=True)
        if source.shape != piece.shape
    ]
