"""What a family is: its settings, its table of rows, where its numbered layers lie, and the families it is made of."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.core.errors import InputError
from mmjax.interop.settings import Setting, Tree, lookup


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    outside: name of the tensor. `{base}` and other names of the family's spellings stand for prefixes, and a name like
      `{layer}` for a number: the row holds for every layer that the family places.
    inside: path of the parameter, or several that share one tensor; `{layer}` stands for where that layer lies.
    pattern: see `transforms`; None: as it is.
    tied_to: where there is no such parameter because it is another one, that one. The tensor may then be there or not,
      but not differ.

    where: fields that the config must have for the row to be meant.
    part: which part of the config these are fields of, "" for the config itself.

    A row whose parameters the model does not have is not meant (a bias, say); what is left over is an error anyway.
    """

    outside: str
    inside: str | tuple[str, ...]
    pattern: str | None = None
    tied_to: str | None = None
    where: tuple[tuple[str, Any], ...] = ()
    part: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """The parameters' paths."""
        return (self.inside,) if isinstance(self.inside, str) else self.inside

    def only_where(self, **fields: Any) -> Row:
        """The same row, meant for configs with these fields only."""
        return dataclasses.replace(self, where=(*self.where, *fields.items()))

    def within(self, part: str) -> Row:
        """The same row where the model is the part of another one, under that name in config and parameters."""

        def marked(text):
            return re.sub(r"\{([\w.]+)\}", lambda found: f"{{{part}.{found[1]}}}", text)

        def path(inside):
            return marked(inside) if inside.startswith("{") else f"{part}/{inside}"

        return dataclasses.replace(
            self,
            outside=marked(self.outside),
            inside=tuple(map(path, self.paths)),
            tied_to=self.tied_to and path(self.tied_to),
            part=f"{part}.{self.part}" if self.part else part,
        )

    def meant(self, config: Any) -> bool:
        """Whether `config` has the fields that the row is for."""
        for name in self.part.split(".") if self.part else ():
            config = getattr(config, name)
        return all(getattr(config, field) == value for field, value in self.where)


Spelling = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a numbered layer lies: below which path, and at which index of stacked parameters (None: not stacked)."""

    prefix: str
    index: int | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """A model within a model.

    field: its field in our config, and the prefix of its parameters.
    key: the key of config.json that holds its config; "": its keys stand among the whole model's.
    families: what it may be, by the `model_type` at that key; the first where it says none. One, once it is known.
    absent: what the outside takes for the part's config where there is none.
    mixed: where there is no `key`, the part's keys stand among the whole model's (as in older checkpoints).
    """

    field: str
    key: str
    families: tuple[Family, ...]
    absent: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    mixed: bool = False

    @property
    def family(self) -> Family:
        """The family of this part, once it is known."""
        return self.families[0]

    def config_in(self, outside: Tree) -> Tree:
        """The part's config within the whole one."""
        return (lookup(outside, self.key) or self.absent) if self.apart(outside) else outside

    def apart(self, outside: Tree) -> bool:
        """Whether the part's config stands at a key of its own within the whole one."""
        return bool(self.key) and not (self.mixed and outside and lookup(outside, self.key) is None)

    def resolve(self, outside: Tree) -> Part:
        """The part with the one family that `outside`, the whole config, names for it."""
        named = self.config_in(outside).get("model_type") if self.apart(outside) else None
        found = [family for family in self.families if named in (None, family.model_type)]
        if not found:
            known = ", ".join(family.model_type for family in self.families)
            raise InputError(f"config.json has {self.key}.model_type={named!r}; known are: {known}")
        return dataclasses.replace(self, families=(found[0].resolve(self.config_in(outside)),))


@dataclasses.dataclass(frozen=True)
class Family:
    """One outside layout.

    model_type, architecture: what config.json says.
    parts: models within this one, with tables of their own. A setting of this family may give fields of a part, as
      {part: {field: value}}; they hold over the part's own.
    defaults: what the outside takes for keys that config.json lacks.
    spellings: prefixes that tensors may have, by their names in the rows (those of a part as `part.name`; a missing one
      is empty), the usual spelling first. For a name that stands for a number, what it is written as ("{}.inner").
    places: name -> number outside -> place, for the names in the rows' outside names.
    detect: fields that config.json leaves open and the tensors' shapes and names (with their spelling) decide.
    ignored: patterns of tensors that carry nothing (buffers that are computed again).
    not_exported: fields that say how the model is used, not what it is.
    canonical: brings configs of the same meaning to the same form.
    by_parts: the family again, with what depends on which families its parts turned out to be.
    writes: whether its models write text, so that a generation_config.json goes with them.

    Places that the family names for a part's layers (`part.name`) hold over the part's own.
    """

    model_type: str
    architecture: str
    config: type
    settings: tuple[Setting, ...]
    rows: tuple[Row, ...]
    places: Callable[[Any], Mapping[str, Mapping[int, Place]]]
    model: Callable[[Any, Any], nn.Module]
    inputs: Callable[[Any], tuple]
    parts: tuple[Part, ...] = ()
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    spellings: tuple[Spelling, ...] = ({},)
    detect: Callable[[Mapping[str, tuple[int, ...]], Spelling], dict[str, Any]] = lambda shapes, spelling: {}
    ignored: tuple[str, ...] = ()
    not_exported: tuple[str, ...] = ("remat",)
    canonical: Callable[[Any], Any] = lambda config: config
    by_parts: Callable[[Family], Family] = lambda family: family
    writes: bool = False

    def resolve(self, outside: Tree) -> Family:
        """The family with every part's own family known.

        Raises:
          InputError: `outside` names one for a part that is not known.
        """
        if not self.parts:
            return self
        return self.by_parts(dataclasses.replace(self, parts=tuple(part.resolve(outside) for part in self.parts)))

    def all_rows(self) -> tuple[Row, ...]:
        """The rows of this family and of its parts."""
        return (*self.rows, *(row.within(part.field) for part in self.parts for row in part.family.all_rows()))

    def all_ignored(self) -> tuple[str, ...]:
        """The patterns of this family and of its parts."""
        return (*self.ignored, *(pattern for part in self.parts for pattern in part.family.all_ignored()))

    def all_places(self, config: Any) -> dict[str, Mapping[int, Place]]:
        """The places of this family and of its parts."""
        places: dict[str, Mapping[int, Place]] = {}
        for part in self.parts:
            for name, numbered in part.family.all_places(getattr(config, part.field)).items():
                places[f"{part.field}.{name}"] = {
                    number: Place(f"{part.field}/{place.prefix}", place.index) for number, place in numbered.items()
                }
        return {**places, **self.places(config)}

    def all_detected(self, shapes: Mapping[str, tuple[int, ...]], spelling: Spelling) -> dict[str, Any]:
        """What the tensors decide, {part: {field: value}} for parts."""
        found = dict(self.detect(shapes, spelling))
        for part in self.parts:
            start = f"{part.field}."
            own = {name.removeprefix(start): prefix for name, prefix in spelling.items() if name.startswith(start)}
            found[part.field] = {**part.family.all_detected(shapes, own), **found.get(part.field, {})}
        return found


def token_inputs(count: int = 3) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Arrays of one token, as many as a model takes: tokens, positions, segments."""
    return (jax.ShapeDtypeStruct((1, 1), jnp.int32),) * count


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
