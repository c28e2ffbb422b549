"""What prompts for a Flamingo begin with alike, read once for all of them; see `decoding.shared`."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from mmjax.core.arrays import Array
from mmjax.core.example import Media
from mmjax.decoding.flamingo import make_writer, open_rows
from mmjax.decoding.pictures import PictureTable, encode_pictures, gather, put
from mmjax.decoding.rows import bucket, pad_rows
from mmjax.decoding.shared import Prefix, read_prefix
from mmjax.models.flamingo import Flamingo
from mmjax.parallel.sharding import use_mesh
from mmjax.text.prompt import Tokenized
from mmjax.text.tokenizer import Tokenizer


class Beginning(NamedTuple):
    """The first `length` tokens and `pictures` pictures of some prompts, as the model has read them."""

    length: int
    pictures: int
    prefix: Prefix


def read_beginning(
    model: Flamingo,
    params: Mapping[str, Array],
    tokenizer: Tokenizer,
    text: Tokenized,
    media: Sequence[Media],
    *,
    length: int,
    mesh: Mesh | None,
) -> Beginning:
    """Reads a text with its pictures into a cache of one row of `length` places."""
    table = PictureTable()
    slots = [[table.add(medium) for medium in media]]
    images = max(1, text.images)
    features = encode_pictures(model, params, table, capacity=bucket(images), mesh=mesh)
    rows = pad_rows([text], slots, rows=1, length=length, images=images, pad=tokenizer.special["pad"])
    prefix = _read(model, mesh, params, jax.tree.map(lambda leaf: put(leaf, mesh), rows), features)
    return Beginning(len(text.tokens), len(media), prefix)


@functools.partial(jax.jit, static_argnames=("model", "mesh"))
def _read(model, mesh, params, rows, features):
    with use_mesh(mesh):
        media = gather(features, rows.slots)
        return read_prefix(make_writer(model, media), params, open_rows(rows, media), features.shape[1])
