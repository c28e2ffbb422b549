"""The configuration of the data of a run: its data sets, and the rows that are made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from mmjax.core.config import build, nearest, to_tree
from mmjax.core.errors import ConfigError
from mmjax.data.lengths import Limits
from mmjax.data.mixture import Phase
from mmjax.data.source import ExampleSource
from mmjax.data.sources.kinds import SOURCES
from mmjax.text.prompt import Layout


@dataclasses.dataclass(frozen=True)
class SourceEntry:
    """A data set of the mixture. `weight`: its share of rows; `options`: the settings of its kind.

    max_tokens: longer examples are cut there, the end token kept but not learned; 0 leaves them whole.
    min_images: examples of fewer media, once cut, are left out. keep_single_image: the share of examples of exactly one
    medium that are kept, chosen by the seed and the example's number. drop_tokens: the probability that a token, once
    the example is cut, is left out of what is read and learned, by the same two; tokens that mark something never are.
    """

    kind: str
    weight: float = 1.0
    loss_weight: float = 1.0
    max_tokens: int = 0
    min_images: int = 0
    keep_single_image: float = 1.0
    drop_tokens: float = 0.0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.max_tokens < 0 or self.max_tokens == 1:
            raise ConfigError(f"max_tokens must be 0 (whole examples) or at least 2, not {self.max_tokens}")
        if self.min_images < 0:
            raise ConfigError(f"min_images must be zero or more, not {self.min_images}")
        for name in ("keep_single_image", "drop_tokens"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} must be between 0 and 1, not {getattr(self, name)}")

    def limits(self, key: int) -> Limits:
        draws = self.keep_single_image < 1.0 or self.drop_tokens > 0.0
        return Limits(
            self.max_tokens, self.min_images, self.keep_single_image, key if draws else 0, drop_tokens=self.drop_tokens
        )

    def settings(self, name: str) -> Any:
        """The options as the dataclass of their kind. Raises ConfigError for an unknown kind or setting."""
        if self.kind not in SOURCES:
            raise ConfigError(
                f"config.data.sources.{name}.kind {self.kind!r} is not a kind of data{nearest(self.kind, SOURCES)}"
            )
        return build(SOURCES[self.kind][0], self.options, f"config.data.sources.{name}.options")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What the rows of a run are made of.

    sources: data sets by name. phases: other weights, or other rows, from later steps on.
    weigh_by, temperature: data sets share the rows in proportion to weight^(1 / temperature), or, by "rows", to
      (weight x rows of an epoch)^(1 / temperature).
    epochs: the stream ends once every data set of the last phase has been read so often, those of larger shares more
      often; rows that the last batch lacks are empty. 0: it never ends.
    from_step: a run that is resumed at this very step may have other data than before it.
    length, images, frames, image_size: a row's tokens, media, frames a medium, and pixels each way.
    layout: how an example is written in tokens.
    pack: several examples a row; window: how many examples are packed among each other.
    next_image_probability: share of examples whose text looks at the next picture instead of the last.
    max_bad_share: share of unusable records past which the stream stops.
    workers: threads that read ahead; no result depends on it.
    """

    sources: Mapping[str, SourceEntry]
    phases: tuple[Phase, ...] = ()
    weigh_by: Literal["weight", "rows"] = "weight"
    temperature: float = 1.0
    epochs: int = 0
    from_step: int = 0
    length: int = 256
    images: int = 8
    frames: int = 1
    image_size: int = 32
    layout: Layout = dataclasses.field(default_factory=Layout)
    pack: bool = True
    window: int = 1024
    no_loss_before_first_image: bool = True
    next_image_probability: float = 0.0
    max_bad_share: float = 0.01
    workers: int = 2

    def __post_init__(self):
        if not self.sources:
            raise ConfigError("sources is empty: name a data set")
        for name, least in (("length", 2), ("images", 1), ("frames", 1), ("image_size", 1), ("window", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("next_image_probability", "max_bad_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        for name in ("workers", "epochs", "from_step"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if not 0.0 < self.temperature < float("inf"):
            raise ConfigError(f"temperature must be above 0, not {self.temperature}")
        for name, entry in self.sources.items():
            tiles = entry.options.get("tiles", 0)
            if isinstance(tiles, int) and 0 < tiles >= self.frames:
                raise ConfigError(
                    f"sources.{name}.options.tiles is {tiles}, and a picture then has up to {tiles + 1} frames: raise "
                    f"frames ({self.frames})"
                )
            shown = entry.settings(name).video if entry.kind == "video" else None
            if shown and shown.shown_as == "frames" and shown.frames > self.frames:
                raise ConfigError(
                    f"sources.{name}.options.video.frames is {shown.frames}: raise frames ({self.frames}) to as many"
                )

    def entry(self, name: str) -> SourceEntry:
        """The data set `name`. Raises ConfigError where there is none."""
        if name not in self.sources:
            raise ConfigError(f"config.data.sources has no data set {name!r}{nearest(name, self.sources)}")
        return self.sources[name]

    def resolved(self) -> DataConfig:
        """The same with every option of every data set spelled out."""
        sources = {
            name: dataclasses.replace(entry, options=to_tree(entry.settings(name)))
            for name, entry in self.sources.items()
        }
        return dataclasses.replace(self, sources=sources)


def make_source(entry: SourceEntry, *, name: str, seed: int, image_size: int) -> ExampleSource:
    """The data set of one entry. Raises ConfigError for an unknown kind or setting."""
    settings = entry.settings(name)
    return SOURCES[entry.kind][1](settings, name=name, seed=seed, image_size=image_size)
