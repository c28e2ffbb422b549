"""How prompts of each family of models that can be trained are opened."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh

from mmjax.core.arrays import Array, Float
from mmjax.decoding import flamingo, inline
from mmjax.decoding.rows import Rows
from mmjax.decoding.writer import Decode, Opening, Writer
from mmjax.models.flamingo import Flamingo
from mmjax.models.inline import InlineModel
from mmjax.parallel.sharding import use_mesh

# By the class of the model: (model, rows, features by slot) -> opening.
OPENERS: dict[type, Callable[[Any, Rows, Float[Array, "S R D"]], Opening]] = {
    Flamingo: flamingo.open_pictures,
    InlineModel: inline.open_rows,
}


@functools.partial(jax.jit, static_argnames=("model", "mesh"))
def open_prompts(model: nn.Module, mesh: Mesh | None, rows: Rows, features: Float[Array, "S R D"]) -> Opening:
    """The opening of rows for a model of one of these families, as a program."""
    with use_mesh(mesh):
        return OPENERS[type(model)](model, rows, features)


def writer_of(model: nn.Module, rows: Rows, features: Float[Array, "S R D"]) -> Writer:
    """What generation needs of a model whose rows look at pictures of these features."""
    cross = getattr(model.config, "cross", None)
    looked_at = 0 if cross is None else rows.slots.shape[1] * features.shape[1]
    return Writer(model.config.decoder, cross, looked_at, Decode(model), dtype=model.dtype)
