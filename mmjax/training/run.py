"""The configuration of a run: one frozen tree, made strictly from what the config file gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp

from mmjax.core.errors import ConfigError
from mmjax.data.config import DataConfig
from mmjax.models.families import ModelConfig
from mmjax.objectives.kinds import OBJECTIVES, ObjectiveConfig
from mmjax.objectives.language import LanguageConfig
from mmjax.optim.optimizer import OptimConfig
from mmjax.parallel.mesh import MeshConfig
from mmjax.text.tokenizer import TokenizerConfig


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """every_steps: 0 saves at the end only. keep_best: also keep the step with the best `best_metric` so far."""

    every_steps: int = 1000
    keep_last: int = 3
    best_metric: str = ""
    best_mode: Literal["min", "max"] = "max"


@dataclasses.dataclass(frozen=True)
class GuardConfig:
    """max_nonfinite_steps: a run stops after so many in a row (none of them is ever applied).

    watchdog_seconds: a step that takes longer ends the process with the stacks of all threads; 0 for never.
    heartbeat_seconds: of several processes, one that gives no sign of life for so long ends all the others.
    """

    max_nonfinite_steps: int = 5
    watchdog_seconds: float = 1800.0
    heartbeat_seconds: float = 100.0

    def __post_init__(self):
        if self.heartbeat_seconds < 5:
            raise ConfigError(f"heartbeat_seconds must be at least 5, not {self.heartbeat_seconds:g}")


@dataclasses.dataclass(frozen=True)
class EvalTasks:
    """What is evaluated while training: task names, shots and selections (empty: the task's own), queries, and seeds.

    Tasks are those of the digits and benchmarks; data: the folder of each benchmark's official files, by its name.
    controls: see `mmjax eval --help`.
    """

    tasks: tuple[str, ...] = ()
    shots: tuple[int, ...] = ()
    queries: int = 100
    seeds: int = 1
    selections: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    data: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """All that a training run needs to know.

    batch_size: rows a step, over all processes; accumulate_steps: into how many parts, one after the other, it is cut.
    compute_dtype: of activations and matrix products; parameters and optimizer state are float32.
    init_from: a checkpoint or workdir whose parameters are taken at the start; parameters that it lacks keep
      their random start if `init_missing` matches their path.
    """

    seed: int
    total_steps: int
    batch_size: int
    log_every_steps: int
    eval_every_steps: int
    model: ModelConfig
    data: DataConfig
    optim: OptimConfig
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)
    objective: ObjectiveConfig = dataclasses.field(default_factory=LanguageConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    guards: GuardConfig = dataclasses.field(default_factory=GuardConfig)
    evaluation: EvalTasks = dataclasses.field(default_factory=EvalTasks)
    accumulate_steps: int = 1
    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    init_from: str = ""
    init_missing: str = ""

    def __post_init__(self):
        for name, least in (("total_steps", 1), ("batch_size", 1), ("log_every_steps", 1), ("eval_every_steps", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.accumulate_steps < 1 or self.batch_size % self.accumulate_steps:
            raise ConfigError(
                f"batch_size ({self.batch_size}) must be a multiple of accumulate_steps ({self.accumulate_steps})"
            )

    def resolved(self) -> RunConfig:
        """The same with the defaults of the model's family and of each kind of data spelled out.

        Raises:
          ConfigError: an unknown family or kind of data, or settings that contradict the family.
        """
        self._check_objective()
        self._check_pictures()
        return dataclasses.replace(self, model=self.model.resolved(), data=self.data.resolved())

    @property
    def dtype(self) -> Any:
        """The dtype that the model computes in."""
        return jnp.dtype(self.compute_dtype)

    def _check_objective(self):
        objective, kind = OBJECTIVES[type(self.objective)], self.objective.kind
        family = self.model.known_family()
        if objective.reads != family.gives:
            fitting = [config().kind for config, other in OBJECTIVES.items() if other.reads == family.gives]
            raise ConfigError(
                f"objective.kind {kind!r} does not fit the family {self.model.family!r}: set it to "
                f"{' or '.join(fitting)}"
            )
        if not objective.over_parts and self.accumulate_steps > 1:
            raise ConfigError(
                f"{kind} compares the rows of the whole batch with each other, so that its loss is not a sum over "
                "parts: set accumulate_steps to 1, and spread the batch over more devices or raise remat"
            )
        if family.gives == "pairs" and (self.data.pack or self.data.images != 1 or self.data.frames != 1):
            raise ConfigError(
                f"{kind} reads rows of one picture and one text: set data.pack to False, data.images and data.frames "
                "to 1"
            )

    def _check_pictures(self):
        family, settings = self.model.known_family(), self.model.settings()
        expected, written = family.image_tokens(settings), self.data.layout.image_tokens
        if written != expected:
            raise ConfigError(
                f"data.layout.image_tokens is {written}, but a picture is {expected} tokens in the text of this model"
            )
        if expected > 1 and (self.data.image_size != settings.vision.image_size or self.data.frames != 1):
            raise ConfigError(
                f"data.image_size must be {settings.vision.image_size}, that of the model's vision encoder, and "
                f"data.frames 1; they are {self.data.image_size} and {self.data.frames}"
            )
