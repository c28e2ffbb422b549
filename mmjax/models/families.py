"""The families of models that a configuration can name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from mmjax.core.config import build, nearest, to_tree
from mmjax.core.errors import ConfigError
from mmjax.models.flamingo import PARTS, Flamingo, FlamingoConfig


@dataclasses.dataclass(frozen=True)
class Family:
    """`parts`: name -> pattern of the paths of the parameters that belong to it; the first match counts."""

    config: type
    module: type[nn.Module]
    parts: Mapping[str, str]


FAMILIES = {"flamingo": Family(FlamingoConfig, Flamingo, PARTS)}


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
        return self._family().module(self._settings(), dtype)

    def resolved(self) -> ModelConfig:
        """The same with every setting of the family spelled out."""
        return ModelConfig(self.family, to_tree(self._settings()))

    def _family(self):
        if self.family not in FAMILIES:
            raise ConfigError(f"config.model.family {self.family!r} is not a family{nearest(self.family, FAMILIES)}")
        return FAMILIES[self.family]

    def _settings(self):
        return build(self._family().config, self.config, "config.model.config")
