"""The families of models that a configuration can name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from mmjax.core.config import build, nearest
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
        if self.family not in FAMILIES:
            raise ConfigError(f"model.family {self.family!r} is not a family{nearest(self.family, FAMILIES)}")
        family = FAMILIES[self.family]
        return family.module(build(family.config, self.config, "config.model.config"), dtype)
