"""Prompts that begin alike: what they share is read once, and each of them goes on from it.

    writer, parameters = share(writer, parameters, opening)     # of one row: what all rows begin with
    output = begin(writer, parameters, rest, spare=...)         # and then as ever, with openings of what follows

The keys and values of the shared part are not copied for each row: a row attends to them and to its own apart (see
`ops.attention.attention_over`). Not for models in which a prompt sees what comes after it (PaliGemma's prefix).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Int
from mmjax.core.errors import InputError
from mmjax.core.example import Media
from mmjax.decoding.pictures import known_by
from mmjax.decoding.prompt import load_frames
from mmjax.decoding.writer import Opening, Writer, begin
from mmjax.models.decoders.cache import SharedPrefix
from mmjax.models.decoders.decoder import DecoderOutput
from mmjax.text.prompt import Tokenized

# The name under which a prefix stands among the parameters of the model that has read it.
PREFIX = "shared prefix"
# One more prefix, with the batches of its own that go on from it, takes about as long as so many tokens more.
PREFIX_TOKENS = 2048
# What all prefixes together must save: to compile the programs that go on from them takes about as long.
LEAST_SAVED = 50_000


@flax.struct.dataclass
class Prefix:
    """A shared beginning that was read, how many tokens it has, and how many pictures."""

    shared: SharedPrefix
    length: Int[Array, ""]
    pictures: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class _GoingOn:
    """`decode` of rows that all go on from the prefix among the parameters."""

    decode: Callable[..., DecoderOutput]

    def __call__(self, parameters, tokens, positions, segments, **further):
        prefix: Prefix = parameters[PREFIX]
        own = {path: value for path, value in parameters.items() if path != PREFIX}
        if further.get("media_index") is not None:
            media = further["media"]
            numbers = jnp.where(media.segments > 0, media.segments + prefix.pictures, 0)
            further |= {
                "media": media.replace(segments=numbers),
                "media_index": further["media_index"] + prefix.pictures,
            }
        positions = jnp.where(segments != 0, positions + prefix.length, 0)
        return self.decode(own, tokens, positions, segments, shared=prefix.shared, **further)


def share(
    writer: Writer, parameters: Mapping[str, Any], prefix: Opening, *, picture_places: int | None = None
) -> tuple[Writer, dict[str, Any]]:
    """Reads a prefix of one row; the writer and parameters with which openings of what follows are begun.

    These count positions and pictures from the end of the prefix; text before their first picture looks at the last
    one of the prefix. picture_places: places of each picture among the media, where what follows looks at no picture
    of the prefix but the last: only that one is kept.

    Raises:
      InputError: more rows than one, or pictures that are not told by their numbers.
    """
    return going_on(writer), {**parameters, PREFIX: read_prefix(writer, parameters, prefix, picture_places)}


def going_on(writer: Writer) -> Writer:
    """The writer of rows that go on from the prefix that stands, as `PREFIX`, among their parameters."""
    return dataclasses.replace(writer, decode=_GoingOn(writer.decode))


def read_prefix(
    writer: Writer, parameters: Mapping[str, Any], prefix: Opening, picture_places: int | None = None
) -> Prefix:
    """The prefix as `share` puts it among the parameters; arguments and errors as there."""
    if len(prefix.tokens) != 1:
        raise InputError(f"a prefix is one row that all others begin with, not {len(prefix.tokens)}")
    media, pictures = prefix.first.get("media"), jnp.int32(0)
    if media is not None:
        if writer.decoder.encoder_attention or prefix.first.get("media_index") is None:
            raise InputError("a shared prefix needs the number of the picture that each token looks at: media_index")
        writer = dataclasses.replace(writer, media_length=media.segments.shape[1])
        pictures = jnp.max(media.segments)
    cache = begin(writer, parameters, prefix, spare=0).cache
    segments = None if media is None else media.segments
    if media is not None and picture_places is not None:
        start = jnp.maximum(pictures - 1, 0) * picture_places
        segments = jax.lax.dynamic_slice_in_dim(segments, start, picture_places, 1)

        def last(kept, axis):
            looked = jax.tree.map(
                lambda x: jax.lax.dynamic_slice_in_dim(x, start, picture_places, axis), kept.get("media", {})
            )
            return {**kept, "media": looked} if kept else kept

        cache = cache.replace(blocks=last(cache.blocks, 2), tail=last(cache.tail, 1))
    return Prefix(SharedPrefix(cache, segments), jnp.max(prefix.next_position), pictures)


class Group(NamedTuple):
    """Prompts, by their numbers, whose first `length` tokens and `pictures` pictures are the same; 0: nothing is."""

    length: int
    pictures: int
    members: tuple[int, ...]


class PictureNames:
    """A number for each different picture."""

    def __init__(self):
        self._by_frames: dict[tuple[int, ...], tuple[Media, int]] = {}
        self._by_content: dict[Hashable, int] = {}

    def number(self, media: Media) -> int:
        """The same for pictures of the same pixels; the same frames are decoded once."""
        frame_ids = tuple(map(id, media.frames))
        if frame_ids not in self._by_frames:
            frames = load_frames(media)
            number = self._by_content.setdefault(known_by(frames), len(self._by_content))
            self._by_frames[frame_ids] = media, number
        return self._by_frames[frame_ids][1]


def plan_groups(
    texts: Sequence[Tokenized],
    media: Sequence[Sequence[Media]],
    *,
    prefix_tokens: int = PREFIX_TOKENS,
    least_saved: int = LEAST_SAVED,
) -> list[Group]:
    """Groups of prompts whose beginnings are worth reading once.

    texts, media: tokens and pictures of each prompt. Each prompt keeps a token of its own at least, and no picture is
    cut. prefix_tokens: what one more prefix costs. least_saved: what all of them must save, or nothing is shared. A
    prompt that shares nothing is in the group of length 0.

        prompts  s a b c . x       a group of 1, 2 and 3 (they share s a b), or of 1 and 2 (s a b c .) and 3 alone:
                 s a b c . y
                 s a b d        6 or 5 tokens are saved, less what the prefix costs
    """
    names = PictureNames()
    keys = [_key(text, own, names) for text, own in zip(texts, media, strict=True)]
    order = sorted(range(len(keys)), key=lambda number: keys[number].tolist())
    common = [_common(keys[left], keys[right]) for left, right in itertools.pairwise(order)]
    groups, alone, saved = [], set(range(len(keys))), 0
    for start, stop in _best_ranges(common, prefix_tokens):
        members = tuple(sorted(order[start:stop]))
        length = min(min(common[start : stop - 1]), *(len(texts[number].tokens) - 1 for number in members))
        length = _before_picture(texts[members[0]], length)
        own = (len(members) - 1) * length - prefix_tokens
        if own > 0:
            saved += own
            pictures = int(texts[members[0]].media_number[:length].max(initial=0))
            groups.append(Group(length, pictures, members))
            alone -= set(members)
    if saved < least_saved:
        groups, alone = [], set(range(len(keys)))
    return ([Group(0, 0, tuple(sorted(alone)))] if alone else []) + groups


def cut(text: Tokenized, length: int) -> tuple[Tokenized, Tokenized]:
    """The first `length` tokens of a prompt, and the rest, whose pictures are counted from 1 again.

    What looks at a picture of the first part is, in the rest, at picture 0.
    """
    before = int(text.media_number[:length].max(initial=0))
    first = Tokenized(text.tokens[:length], text.loss[:length], text.media_number[:length], before)
    numbers = np.maximum(text.media_number[length:] - before, 0)
    return first, Tokenized(text.tokens[length:], text.loss[length:], numbers, text.images - before)


def _key(text: Tokenized, media: Sequence[Media], names: PictureNames) -> Int[np.ndarray, "T 2"]:
    """Each token, and the picture that it looks at: prompts are alike as far as these are."""
    looked_at = np.array([-1, *(names.number(medium) for medium in media)], np.int64)
    return np.stack([text.tokens.astype(np.int64), looked_at[text.media_number]], axis=1)


def _common(left, right) -> int:
    """How many of the first rows are the same."""
    shortest = min(len(left), len(right))
    differ = np.flatnonzero((left[:shortest] != right[:shortest]).any(axis=1))
    return int(differ[0]) if len(differ) else shortest


def _before_picture(text: Tokenized, length: int) -> int:
    """At most `length`, so that the tokens of one picture stay together."""
    while 0 < length < len(text.tokens) and _same_picture(text, length):
        length -= 1
    return length


def _same_picture(text: Tokenized, place: int) -> bool:
    one, other = text.tokens[place - 1 : place + 1]
    looked_at, beside = text.media_number[place - 1 : place + 1]
    return bool(one == other and looked_at == beside > 0)


def _best_ranges(common: Sequence[int], prefix_tokens: int) -> list[tuple[int, int]]:
    """Ranges [start, stop) of sorted prompts that save most, where neighbours have `common` first tokens.

    Every range that is worth considering is a node of the tree of common beginnings; a node is taken where it saves
    more than the nodes within it.
    """
    # Of each open node: its common length, its start, what the nodes closed within it save, and which these are.
    opened: list[tuple[int, int, int, list[tuple[int, int]]]] = [(0, 0, 0, [])]
    for place, length in enumerate([*common, 0]):
        start, saved, ranges = place, 0, []
        while opened[-1][0] > length:
            depth, start, inner, within = opened.pop()
            inner, within = inner + saved, within + ranges
            own = (place - start) * depth - prefix_tokens
            saved, ranges = (own, [(start, place + 1)]) if own >= max(inner, 1) else (inner, within)
        if opened[-1][0] < length:
            opened.append((length, start, saved, ranges))
        else:
            depth, first, inner, within = opened.pop()
            opened.append((depth, first, inner + saved, within + ranges))
    return opened[0][3]
