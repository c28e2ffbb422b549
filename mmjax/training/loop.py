"""The training loop: start or resume, step, log, evaluate, save, and end cleanly whatever ends it."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.checkpoints.manager import Checkpoints
from mmjax.checkpoints.manifest import current_versions
from mmjax.core.batch import Batch
from mmjax.core.config import to_tree
from mmjax.core.errors import TrainingError
from mmjax.core.progress import progress_bar
from mmjax.data.plan import Start
from mmjax.data.segments import NAME as STREAM
from mmjax.data.segments import go_on, position_of, segments_text
from mmjax.data.stream import BatchStream, StreamItem
from mmjax.objectives.kinds import OBJECTIVES
from mmjax.ops.flops import count_jaxpr_flops
from mmjax.optim.groups import group_table
from mmjax.optim.schedules import make_schedule
from mmjax.parallel import peers
from mmjax.parallel.chips import peak_flops
from mmjax.parallel.distributed import check_same, from_local_rows, local_rows
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import batch_sharding
from mmjax.training.guards import CompilationCounter, StopRequest, Watchdog
from mmjax.training.load import abstract_batch, build_model
from mmjax.training.metrics import RunLog, finite, score_names, write_text
from mmjax.training.pretrained import initial_params
from mmjax.training.run import RunConfig
from mmjax.training.state import TrainState, create_state, plan_state, replace_params
from mmjax.training.step import make_loss, make_train_step
from mmjax.training.window import Window, count_filling

# In-loop evaluation: (model, parameters by path, tokenizer, step) -> rows of scores.
Evaluate = Callable[[Any, Mapping[str, Any], Any, int], list[dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How a run ended. `stopped_by` is the signal's name, empty for a run that reached its last step."""

    step: int
    stopped_by: str
    checkpoint: Path


class Trainer:
    """One run in one workdir; nothing is written, and no parameter made, before `train`."""

    def __init__(self, config: RunConfig, workdir: str | Path, *, evaluate: Evaluate | None = None):
        self.config = config
        self.workdir = Path(workdir).expanduser().absolute()
        self.evaluate = evaluate
        self.mesh: Mesh = make_mesh(config.mesh)
        self.model, self.tokenizer = build_model(config)
        self.batch = abstract_batch(config.data, config.batch_size)
        self.plan = plan_state(config, self.model, self.batch, self.mesh)
        self.batch_shardings = jax.tree.map(lambda leaf: batch_sharding(self.mesh, leaf.shape), self.batch)
        self.rows = local_rows(self.batch_shardings.tokens, self.batch.tokens.shape)
        self.is_writer = jax.process_index() == 0

    def train(self) -> TrainResult:
        """Trains to the last step, or until a signal asks to stop; the state is saved either way.

        Raises:
          TrainingError: too many non-finite steps in a row, or too many bad records.
          CheckpointError: a save failed, or no checkpoint could be restored.
        """
        config = self.config
        (self.workdir / "checkpoints").mkdir(parents=True, exist_ok=True)
        best = (config.checkpoint.best_metric, config.checkpoint.best_mode) if config.checkpoint.best_metric else None
        with (
            StopRequest().listening() as stop,
            Checkpoints(
                self.workdir / "checkpoints", keep_last=config.checkpoint.keep_last, keep_best=best
            ) as checkpoints,
        ):
            state, position = self._start(checkpoints)
            stream = self._stream(int(state.step), position)
            self._write_config()
            last_step = self._last_step(stream)
            if int(state.step) >= last_step:
                self.say(f"the run is at its last step, {last_step}; nothing is left to do")
                return TrainResult(int(state.step), "", self.workdir / "checkpoints" / str(int(state.step)))
            loop = _Loop(self, checkpoints, stream, stop, last_step)
            try:
                return loop.run(state)
            finally:
                loop.close()

    def _start(self, checkpoints: Checkpoints) -> tuple[TrainState, dict[str, int] | None]:
        steps = checkpoints.steps()
        check_same(max(steps, default=-1), f"the newest step in {self.workdir}, which all must see,")
        if steps:
            restored = checkpoints.restore(like=self.plan.abstract.tree())
            self.say(f"resuming {self.workdir} at step {restored.step}")
            for change in _differences(restored.config, to_tree(self.config)):
                self.say(f"changed since then: {change}")
            return TrainState(**restored.state), restored.position
        if any((self.workdir / "checkpoints").iterdir()):
            self.say(f"{self.workdir / 'checkpoints'} has no complete checkpoint; the run starts from the beginning")
        self.say(group_table(self.config.optim.groups, self.plan.groups, self.plan.shapes))
        state = create_state(self.config, self.model, self.batch_example(), self.plan)
        if self.config.init_from:
            shardings = {
                path: leaf.sharding for path, leaf in {**self.plan.abstract.params, **self.plan.abstract.frozen}.items()
            }
            state = replace_params(state, initial_params(self.config, self.plan.shapes, shardings, self.mesh))
        return state, None

    def batch_example(self) -> Batch:
        """A batch of zeros of the run's shapes with a single row, to make parameters with."""
        return jax.tree.map(lambda leaf: np.zeros((1, *leaf.shape[1:]), leaf.dtype), self.batch)

    def _stream(self, step: int, position: Mapping[str, int] | None) -> BatchStream:
        def make(begun: Start) -> BatchStream:
            return BatchStream(
                self.config.data,
                self.tokenizer,
                batch_size=self.config.batch_size,
                seed=self.config.seed,
                start_step=step,
                rows=self.rows,
                begun=begun,
            )

        stream, segments = go_on(self.workdir, make, step=step, position=position, from_step=self.config.data.from_step)
        if self.is_writer:
            write_text(self.workdir / STREAM, segments_text(segments))
        if segments[-1].begun.step == step > 0:
            self.say(f"the data are others from step {step} on; {self.workdir / STREAM} lists what was read")
        return stream

    def _last_step(self, stream: BatchStream) -> int:
        steps, total = stream.plan.steps, self.config.total_steps
        if steps is None or steps >= total:
            return total
        self.say(f"the data end after step {steps} (data.epochs), and the run with them; total_steps is {total}")
        return steps

    def put(self, batch: Batch) -> Batch:
        """This process's rows as arrays of the whole mesh."""
        return jax.tree.map(
            lambda leaf, sharding: from_local_rows(self.rows, leaf, sharding, self.config.batch_size),
            batch,
            self.batch_shardings,
        )

    def _write_config(self) -> None:
        if self.is_writer:
            write_text(self.workdir / "config.json", json.dumps(to_tree(self.config), indent=2) + "\n")
            versions = {**current_versions(), "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}"}
            write_text(self.workdir / "versions.json", json.dumps(versions, indent=2) + "\n")

    def say(self, message: str) -> None:
        """A line for the person who watches, from one process, above the progress bar."""
        if self.is_writer:
            tqdm.tqdm.write(message, file=sys.stderr)


class _Loop:
    """The moving parts of a run that has started."""

    def __init__(
        self, trainer: Trainer, checkpoints: Checkpoints, stream: BatchStream, stop: StopRequest, last_step: int
    ):
        self.last_step = last_step
        self.trainer, self.config, self.checkpoints, self.stream, self.stop = (
            trainer,
            trainer.config,
            checkpoints,
            stream,
            stop,
        )
        weights = stream.loss_weights
        step = make_train_step(self.config, trainer.model, trainer.plan, trainer.mesh, weights)
        blank = None
        if OBJECTIVES[type(self.config.objective)].grounded:
            blank = make_loss(self.config, trainer.model, trainer.mesh, weights, blank=True)
        peak = peak_flops(jax.devices()[0].device_kind)
        self.peak = None if peak is None else peak * jax.device_count()
        batch = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            trainer.batch,
            trainer.batch_shardings,
        )
        trainer.say(f"compiling for {jax.device_count()} x {jax.devices()[0].device_kind} ...")
        started = time.monotonic()

        def counted(state, batch):
            state, metrics = step(state, batch)
            return state, (metrics, count_filling(batch))

        # What is read on the host lies whole on every device, so that every process can read it.
        whole = NamedSharding(trainer.mesh, PartitionSpec())
        places = jax.tree.map(lambda leaf: leaf.sharding, trainer.plan.abstract)
        abstract = trainer.plan.abstract
        traced = jax.jit(counted, donate_argnums=0, out_shardings=(places, whole)).trace(abstract, batch)
        self.flops = count_jaxpr_flops(traced.jaxpr).total
        self.step = traced.lower().compile()
        self.blank = None
        if blank is not None:
            self.blank = jax.jit(blank, out_shardings=whole).lower(abstract, batch).compile()
        self.gather = jax.jit(lambda gates: gates, out_shardings=whole).lower(_gates(abstract)).compile()
        schedule = make_schedule(self.config.optim.schedule, self.config.total_steps)
        self.rate = jax.jit(schedule).lower(np.int32(0)).compile()
        trainer.say(f"compiled in {time.monotonic() - started:.1f} s; {self.flops / 1e9:.2f} GFLOP a step")
        if peers.current() is not None:
            peers.current().meet("compiled")
        self.watchdog = Watchdog(self.config.guards.watchdog_seconds)
        self.compilations = CompilationCounter()
        self.log: RunLog | None = None
        self.scores: dict[str, float] = {}
        self.scored = 0
        # Where steps are queued, a step's figures are read while the next one runs; on CPU, queues can deadlock.
        self.lag = 0 if jax.devices()[0].platform == "cpu" else 1

    def run(self, state: TrainState) -> TrainResult:
        first = int(state.step)
        self.log = RunLog(
            self.trainer.workdir, resume_step=first, process=jax.process_index(), processes=jax.process_count()
        )
        if first == 0:
            self.log.left_out(self.stream.unusable_records() if jax.process_index() == 0 else ())
        self.window = Window(self.stream.dataset_names, self.trainer.batch, self.flops, self.peak)
        self.bad = collections.deque(maxlen=self.config.guards.max_nonfinite_steps)
        self.bar = progress_bar(total=self.last_step, initial=first, what="train", unit="step")
        self.pending: collections.deque = collections.deque()
        items = iter(self.stream)
        item, batch = self._next(items, first + 1)
        for step in range(first + 1, self.last_step + 1):
            self.watchdog.beat(f"step {step}")
            self.checkpoints.check()
            with self._watched(step > first + 1):
                if self._due(self.config.log_every_steps, step):
                    self._finish(0, state)
                blank = self._blank_loss(state, batch, step)
                state, metrics = self.step(state, batch)
                self.pending.append((step, item, metrics, blank))
                if step < self.last_step:
                    item, batch = self._next(items, step + 1)
                self._finish(self.lag, state)
                last = self.stop.after(step) or step == self.last_step
                if self._due(self.config.eval_every_steps, step) or last:
                    self._finish(0, state)
            if self._due(self.config.eval_every_steps, step):
                self._evaluate(state, step)
            if self._due(self.config.checkpoint.every_steps, step) or last:
                self._save(state, step)
            if last:
                break
        self.checkpoints.wait()
        return TrainResult(step, self.stop.name, self.trainer.workdir / "checkpoints" / str(step))

    @contextlib.contextmanager
    def _watched(self, started: bool) -> Iterator[None]:
        """Nothing is sent to or from the devices but by request; once the run has started, nothing is compiled."""
        with jax.transfer_guard("disallow"), self.compilations.watching() if started else contextlib.nullcontext():
            yield

    def close(self) -> None:
        """Ends what runs beside the loop."""
        self.watchdog.close()
        self.compilations.close()
        if self.log is not None:
            self.log.close()
            self.bar.close()

    def _next(self, items, step) -> tuple[StreamItem, Batch]:
        """The rows of `step`, on their way to the devices while the step before runs."""
        self.watchdog.beat(f"the rows of step {step}")
        with self.window.waiting():
            item = next(items)
        self.log.bad_records(step, item.bad_records)
        return item, self.trainer.put(item.batch)

    def _due(self, every: int, step: int) -> bool:
        return every > 0 and step % every == 0

    def _blank_loss(self, state, batch, step):
        """The loss of this batch without its pictures, by the parameters before the step that will be logged."""
        if self.blank is None or not self._due(self.config.log_every_steps, step):
            return None
        with self.window.paused():
            return jax.block_until_ready(self.blank(state, batch))

    def _finish(self, lag: int, state: TrainState) -> None:
        """Reads the figures of all but the newest `lag` steps."""
        while len(self.pending) > lag:
            step, item, metrics, blank = self.pending.popleft()
            self.watchdog.beat(f"step {step}")
            metrics, filling = jax.device_get(metrics)
            self.window.finish(metrics, filling)
            self.bar.update(1)
            self._guard(step, item, metrics)
            if self._due(self.config.log_every_steps, step):
                self._log(step, metrics, blank, state)

    def _guard(self, step, item, metrics) -> None:
        if metrics.finite:
            return
        self.bad.append(f"step {step}: {' '.join(item.ids)}")
        self.trainer.say(f"step {step} was skipped: its loss or gradient is not finite")
        if metrics.nonfinite_in_row >= self.config.guards.max_nonfinite_steps:
            raise TrainingError(
                f"{metrics.nonfinite_in_row} steps in a row had a loss or gradient that is not finite; none was "
                f"applied. Lower optim.learning_rate or look at these examples: {'; '.join(self.bad)}"
            )

    def _log(self, step, metrics, blank, state) -> None:
        values = self.window.summary(metrics, jax.device_get(blank))
        rate = jax.device_get(self.rate(jax.device_put(np.int32(step - 1))))  # of update `step`, counted from 1
        values["learning_rate"] = self.config.optim.learning_rate * float(rate)
        values["gates"] = _gate_shares(jax.device_get(self.gather(_gates(state))))
        values["recompilations"] = self.compilations.count
        if self.scores:
            values["scores"] = {"step": self.scored, **self.scores}
        self.log.metrics(step, values)
        if self.compilations.count:
            self.trainer.say(f"{self.compilations.count} programs were compiled after the first step")
        if self.bar.disable:
            self.trainer.say(self.window.line(step, self.last_step, values))
        else:
            gap = f" gap {values['grounding_gap']:.3f}" if "grounding_gap" in values else ""
            self.bar.set_postfix_str(f"loss {values['loss']:.4f}{gap}")
        self.window.reset()

    def _evaluate(self, state, step) -> None:
        if self.trainer.evaluate is None:
            return
        with self.window.paused():
            params = {**state.all_params(), **state.ema}
            rows = self.trainer.evaluate(self.trainer.model, params, self.trainer.tokenizer, step)
            self.log.evaluation(step, rows)
            self.scores, self.scored = score_names(rows), step
            self.watchdog.beat(f"step {step}")

    def _save(self, state, step) -> None:
        with self.window.paused():
            metrics = {name: finite(float(value)) for name, value in {**self.window.last, **self.scores}.items()}
            self.checkpoints.save(
                step,
                state.tree(),
                position=position_of(self.stream, step),
                config=to_tree(self.config),
                metrics={name: value for name, value in metrics.items() if value is not None},
            )


def _gates(state: TrainState) -> dict[str, Any]:
    return {path: leaf for path, leaf in state.all_params().items() if path.endswith("_gate")}


def _gate_shares(gates: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """tanh of every gate, by path: what share of the cross-attention each block lets through (mean over channels)."""
    shares = {}
    for path, leaf in gates.items():
        values = np.tanh(np.asarray(leaf, np.float64))
        stacked = values if "/layers/" in path else values[None]
        shares[path] = stacked.reshape(stacked.shape[0], -1).mean(axis=1).tolist()
    return shares


def _differences(old: Any, new: Any, path: str = "config") -> list[str]:
    """What changed between two configurations, one line each."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line for key in sorted({*old, *new}) for line in _differences(old.get(key), new.get(key), f"{path}.{key}")
        ]
    return [] if old == new else [f"{path} {old!r} -> {new!r}"]
