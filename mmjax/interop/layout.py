"""A family's table, spelt out for one config: which outside tensor is made of which (slices of) parameters."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from mmjax.core.errors import CheckpointError, InputError
from mmjax.interop.family import Family, Row, Spelling
from mmjax.interop.transforms import SAME, PadVocabulary, Rearrange
from mmjax.models.decoders.config import DecoderConfig
from mmjax.parallel.sharding import abstract_parameters


@dataclasses.dataclass(frozen=True)
class Piece:
    """A parameter, or one layer's slice of a stacked one."""

    path: str
    index: int | None
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One outside tensor and what it is made of. `tied`: only to be compared with, not to be stored."""

    name: str
    pieces: tuple[Piece, ...]
    transform: Rearrange | PadVocabulary
    tied: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the outside tensor."""
        return self.transform.outside_shape([piece.shape for piece in self.pieces])


@dataclasses.dataclass(frozen=True)
class Layout:
    """All outside tensors of one model, and the shapes and logical axes of its parameters."""

    entries: dict[str, Entry]
    shapes: dict[str, jax.ShapeDtypeStruct]
    axes: dict[str, tuple]


def lay_out(family: Family, config: Any, spelling: Spelling, *, vocabulary: int | None = None) -> Layout:
    """Spells the family's table out for `config`.

    vocabulary: how many words the tensors have, where the config has more (see `padded_vocabulary`).

    Raises:
      CheckpointError: the table leaves a parameter of the model out, or names one twice (named in the message).
    """
    module = family.model(config, jax.numpy.float32)
    shapes, axes = abstract_parameters(module.init, jax.random.key(0), *family.inputs(config))
    places = family.all_places(config)
    entries: dict[str, Entry] = {}
    covered: dict[tuple[str, int | None], str] = {}
    for row in family.all_rows():
        if not row.meant(config):
            continue
        for name, paths in _numbered(row, places, spelling):
            entry = _entry(row, name, paths, shapes)
            if entry is None:
                continue
            for piece in () if entry.tied else entry.pieces:
                if (piece.path, piece.index) in covered:
                    raise CheckpointError(f"{name} and {covered[piece.path, piece.index]} both stand for {piece.path}")
                covered[piece.path, piece.index] = name
            entries[name] = entry
    if vocabulary is not None:
        entries = {name: _cut_to(vocabulary, entry, config) for name, entry in entries.items()}
    left = _uncovered(shapes, covered)
    if left:
        raise CheckpointError(
            f"the {family.model_type} layout has no place for these parameters of this model: {', '.join(left)}"
        )
    return Layout(entries, shapes, axes)


def with_vocabulary(config: Any, words: int) -> Any:
    """A language model's config, or that of a model with one, with so many words.

    Raises:
      InputError: there is no language model, or one with tokens in a table of their own behind the words.
    """
    decoder = _decoder_of(config)
    if decoder is None or decoder.added_vocab or decoder.extra_embeddings:
        what = "has no language model" if decoder is None else "has a second table of tokens behind its vocabulary"
        raise InputError(f"the vocabulary cannot be padded: this model {what}")
    changed = dataclasses.replace(decoder, vocab_size=words)
    return changed if decoder is config else dataclasses.replace(config, decoder=changed)


def padded_vocabulary(config: Any, multiple: int) -> tuple[Any, int]:
    """The config with its vocabulary rounded up to a multiple, so that it splits evenly, and how large it was.

    Raises:
      InputError: as `with_vocabulary`, or a multiple less than 1.
    """
    if multiple < 1:
        raise InputError(f"the vocabulary is padded to a multiple of at least 1, not {multiple}")
    words = vocabulary_of(config) or 0
    return with_vocabulary(config, -(-words // multiple) * multiple), words


def vocabulary_of(config: Any) -> int | None:
    """How many words a model writes; None: it writes none."""
    decoder = _decoder_of(config)
    return None if decoder is None else decoder.vocab_size


def _decoder_of(config: Any) -> DecoderConfig | None:
    """The decoder that writes; a text encoder's is none."""
    decoder = config if isinstance(config, DecoderConfig) else getattr(config, "decoder", None)
    return decoder if isinstance(decoder, DecoderConfig) and decoder.causal else None


def _cut_to(vocabulary: int, entry: Entry, config: Any) -> Entry:
    start = "" if isinstance(config, DecoderConfig) else "decoder/"
    if entry.pieces[0].path not in (f"{start}embedding", f"{start}unembedding"):
        return entry
    return dataclasses.replace(entry, transform=PadVocabulary(entry.transform, vocabulary))


def choose_spelling(family: Family, names: Iterable[str]) -> Spelling:
    """The spelling that most of the tensors' `names` follow."""

    def followed(spelling: Spelling) -> int:
        outsides = (_spelt(row, spelling) for row in family.all_rows())
        expected = {_PLACEHOLDER.sub(lambda found: spelling.get(found[1], "{}").format(0), name) for name in outsides}
        return len(kinds & {kind(name) for name in expected})

    def kind(name: str) -> str:
        return re.sub(r"\.\d+(?=\.)", ".0", name)

    kinds = set(map(kind, names))
    return max(family.spellings, key=followed)


_PLACEHOLDER = re.compile(r"\{([\w.]+)\}")


def _spelt(row: Row, spelling: Spelling) -> str:
    """The outside name with its prefixes. What stands for a number is in the inside name too, and stays."""
    numbers = {name for path in row.paths for name in _PLACEHOLDER.findall(path)}
    return _PLACEHOLDER.sub(lambda found: found[0] if found[1] in numbers else spelling.get(found[1], ""), row.outside)


def _numbered(row: Row, places, spelling: Spelling) -> Iterable[tuple[str, list[tuple[str, int | None]]]]:
    inside = row.paths
    outside = _spelt(row, spelling)
    numbered = _PLACEHOLDER.search(outside)
    if numbered is None:
        yield outside, [(path, None) for path in inside]
        return
    for number, place in places[numbered[1]].items():
        paths = [(path.replace(numbered[0], place.prefix), place.index) for path in inside]
        yield outside.replace(numbered[0], spelling.get(numbered[1], "{}").format(number)), paths


def _entry(row: Row, name: str, paths: Sequence[tuple[str, int | None]], shapes) -> Entry | None:
    if not all(path in shapes for path, _ in paths):
        if row.tied_to not in shapes:
            return None
        paths = [(row.tied_to, None)]
    pieces = tuple(
        Piece(path, index, shapes[path].shape if index is None else shapes[path].shape[1:]) for path, index in paths
    )
    transform = Rearrange(row.pattern) if row.pattern else SAME[len(pieces[0].shape)]
    return Entry(name, pieces, transform, tied=paths[0][0] == row.tied_to)


def _uncovered(shapes, covered) -> list[str]:
    indexes: dict[str, set[int | None]] = {}
    for path, index in covered:
        indexes.setdefault(path, set()).add(index)
    left = []
    for path, shape in shapes.items():
        found = indexes.get(path, set())
        if None not in found and (not found or found != set(range(shape.shape[0]))):
            left.append(path)
    return left
