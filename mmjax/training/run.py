"""The configuration of a run: one frozen tree, made strictly from what the config file gives."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp

from mmjax.core.errors import ConfigError
from mmjax.data.stream import DataConfig
from mmjax.models.families import ModelConfig
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
    """

    max_nonfinite_steps: int = 5
    watchdog_seconds: float = 1800.0


@dataclasses.dataclass(frozen=True)
class EvalTasks:
    """What is evaluated while training: task names and shots (empty: the task's own), queries a task, and seeds."""

    tasks: tuple[str, ...] = ()
    shots: tuple[int, ...] = ()
    queries: int = 100
    seeds: int = 1


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
    objective: LanguageConfig = dataclasses.field(default_factory=LanguageConfig)
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
        """The same with the defaults of the model's family and of each kind of data spelled out."""
        return dataclasses.replace(self, model=self.model.resolved(), data=self.data.resolved())

    @property
    def dtype(self) -> Any:
        """The dtype that the model computes in."""
        return jnp.dtype(self.compute_dtype)
