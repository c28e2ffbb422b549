"""The families of models that a configuration can name, and how a batch goes through each."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn

from mmjax.core.batch import Batch
from mmjax.core.config import build, nearest, to_tree
from mmjax.core.errors import ConfigError
from mmjax.models import flamingo, inline, two_tower
from mmjax.models.decoders.config import DecoderConfig

Output = Literal["text", "pairs"]


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of models that can be trained.

    parts: name -> pattern of the paths of the parameters that belong to it; the first match counts.
    reader: the module's method that takes a Batch.
    gives: what that returns: "text", hidden states of a language model (`DecoderOutput`), or "pairs", one vector for
      each picture and each text (`Pairs`).
    tokens: its layers that read tokens.
    image_tokens: how many tokens stand for a picture in the text.
    image_token: the id of these tokens where the model looks for it in the text, else None.
    """

    config: type
    module: type[nn.Module]
    parts: Mapping[str, str]
    reader: str
    gives: Output
    tokens: Callable[[Any], DecoderConfig]
    image_tokens: Callable[[Any], int]
    image_token: Callable[[Any], int | None]


FAMILIES = {
    "flamingo": Family(
        flamingo.FlamingoConfig,
        flamingo.Flamingo,
        flamingo.PARTS,
        "__call__",
        "text",
        tokens=lambda config: config.decoder,
        image_tokens=lambda config: 1,
        image_token=lambda config: None,
    ),
    "two_tower": Family(
        two_tower.TwoTowerConfig,
        two_tower.TwoTower,
        two_tower.PARTS,
        "embed",
        "pairs",
        tokens=lambda config: config.text.decoder,
        image_tokens=lambda config: 0,
        image_token=lambda config: None,
    ),
    "inline": Family(
        inline.InlineConfig,
        inline.InlineModel,
        inline.PARTS,
        "read",
        "text",
        tokens=lambda config: config.decoder,
        image_tokens=lambda config: config.image_tokens,
        image_token=lambda config: config.image_token,
    ),
}


def family_of(model: nn.Module) -> Family:
    """The family of a module."""
    return next(family for family in FAMILIES.values() if type(model) is family.module)


def forward(model: nn.Module, variables: Mapping[str, Any], batch: Batch, **further: Any) -> Any:
    """What the model makes of a batch: a `DecoderOutput` or `Pairs`; further arguments are the reader's own."""
    return model.apply(variables, batch, method=family_of(model).reader, **further)


def initializer(model: nn.Module) -> Callable[..., Any]:
    """(random key, batch) -> the model's first variables."""
    return functools.partial(model.init, method=family_of(model).reader)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """`family` names the model; `config` are the settings of that family."""

    family: str
    config: Mapping[str, Any]

    def build(self, dtype: Any) -> nn.Module:
        """The Linen module, which computes in `dtype`.

        Raises:
          ConfigError: an unknown family, or settings that do not fit it.
        """
        return self.known_family().module(self.settings(), dtype)

    def resolved(self) -> ModelConfig:
        """The same with every setting of the family spelled out."""
        return ModelConfig(self.family, to_tree(self.settings()))

    def known_family(self) -> Family:
        """The family of this name. Raises ConfigError where there is none."""
        if self.family not in FAMILIES:
            raise ConfigError(f"config.model.family {self.family!r} is not a family{nearest(self.family, FAMILIES)}")
        return FAMILIES[self.family]

    def settings(self) -> Any:
        """The settings as the family's dataclass. Raises ConfigError where they do not fit it."""
        return build(self.known_family().config, self.config, "config.model.config")
