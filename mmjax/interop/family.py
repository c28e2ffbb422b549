"""What a family is: its settings, its table of rows, and where its numbered layers lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from mmjax.interop.settings import Setting


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    outside: name of the tensor. `{base}` stands for the prefix of the family's inner model, and a name like `{layer}`
      for a number: the row holds for every layer that the family places.
    inside: path of the parameter, or several that share one tensor; `{layer}` stands for where that layer lies.
    pattern: see `transforms`; None: as it is.
    tied_to: where there is no such parameter because it is another one, that one. The tensor may then be there or not,
      but not differ.

    where: fields that the config must have for the row to be meant.

    A row whose parameters the model does not have is not meant (a bias, say); what is left over is an error anyway.
    """

    outside: str
    inside: str | tuple[str, ...]
    pattern: str | None = None
    tied_to: str | None = None
    where: tuple[tuple[str, Any], ...] = ()

    def only_where(self, **fields: Any) -> Row:
        """The same row, meant for configs with these fields only."""
        return dataclasses.replace(self, where=(*self.where, *fields.items()))


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a numbered layer lies: below which path, and at which index of stacked parameters (None: not stacked)."""

    prefix: str
    index: int | None = None


@dataclasses.dataclass(frozen=True)
class Family:
    """One outside layout.

    model_type, architecture: what config.json says.
    defaults: what the outside takes for keys that config.json lacks.
    bases: prefixes that the inner model's tensors may have, the usual one first.
    places: name -> number outside -> place, for the names in the rows' outside names.
    detect: fields that config.json leaves open and the tensors' shapes and names (with their base) decide.
    ignored: patterns of tensors that carry nothing (buffers that are computed again).
    not_exported: fields that say how the model is used, not what it is.
    canonical: brings configs of the same meaning to the same form.
    """

    model_type: str
    architecture: str
    config: type
    settings: tuple[Setting, ...]
    rows: tuple[Row, ...]
    places: Callable[[Any], Mapping[str, Mapping[int, Place]]]
    model: Callable[[Any, Any], nn.Module]
    inputs: Callable[[Any], tuple]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    bases: tuple[str, ...] = ("",)
    detect: Callable[[Mapping[str, tuple[int, ...]], str], dict[str, Any]] = lambda shapes, base: {}
    ignored: tuple[str, ...] = ()
    not_exported: tuple[str, ...] = ("remat",)
    canonical: Callable[[Any], Any] = lambda config: config


def decoder_places(layers: int, superblocks: int, layers_per_superblock: int, prefix: str = "") -> dict[int, Place]:
    """Where the self-attention layers of a decoder lie: slices of `layers/self_*`, then `tail/self_*`."""
    places = {}
    for layer in range(layers):
        block, slot = divmod(layer, layers_per_superblock)
        if block < superblocks:
            places[layer] = Place(f"{prefix}layers/self_{slot}", block)
        else:
            places[layer] = Place(f"{prefix}tail/self_{slot}")
    return places
