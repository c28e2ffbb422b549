"""Times the training step of a config on the devices that are here, beside what was planned for them.

    python -m benchmarks.pod --config configs/flamingo_9b.py --steps 30 [--plan plan.json] [--out docs/pod.md]

The same command on every host of a slice (`python -m launch.gke submit --measure` and its like do that) prints one row
of a table, and adds it to --out. First a batch that lies on the devices is used again and again, so that data cost
nothing: digit scans in the shapes of the config, whatever its data sets are. Then the config's own data set are read
(not with --no-stream), which shows how long a step waits for them. Parameters are random; nothing is saved.

tokens/s, images/s: all positions and image slots of the batch, padding too. MFU: FLOPs of the model as the plan
counts them (without recomputation, a causal grid half) over the nominal peak; HFU: all that is computed. `plan.json` is
what `mmjax plan --json` wrote. Without a pod:

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m benchmarks.pod --config configs/flamingo_9b.py:tiny
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.cli.configs import add_config_argument, load_config
from mmjax.core.batch import Batch
from mmjax.core.errors import InputError, MmjaxError
from mmjax.data.config import SourceEntry
from mmjax.data.stream import BatchStream
from mmjax.ops.flops import count_flops
from mmjax.parallel import distributed, peers
from mmjax.parallel.chips import chip_of
from mmjax.planning.flops import model_flops
from mmjax.training.guards import Watchdog
from mmjax.training.loop import Trainer
from mmjax.training.run import RunConfig
from mmjax.training.state import create_state
from mmjax.training.step import make_train_step

GIB = 2**30
COLUMNS = (
    "config",
    "devices",
    "step s",
    "10-90%",
    "plan: estimate s",
    "plan: bound s",
    "tokens/s/chip",
    "images/s/chip",
    "MFU",
    "HFU",
    "peak HBM GiB",
    "plan: HBM GiB",
    "with data: step s",
    "waiting for data",
)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured; seconds, bytes, and operations of one step on all devices. None: it cannot be known here.

    seconds: of each step, of all processes. peak_flops: FLOP/s of all devices.
    stream_seconds, wait_share: with the config's own data, and the share of it that was spent waiting for them.
    """

    config: str
    device_kind: str
    devices: int
    chips: float
    seconds: tuple[float, ...]
    tokens: int
    images: int
    model_flops: int
    hardware_flops: int
    peak_flops: float | None
    hbm_bytes: int | None
    stream_seconds: float | None = None
    wait_share: float | None = None

    @property
    def step_seconds(self) -> float:
        """The median step."""
        return float(np.median(self.seconds))


def synthetic(config: RunConfig) -> RunConfig:
    """The same run on pictures that are made up: single digits, as many in a row as fit."""
    sources = {
        name: SourceEntry("digits_read", entry.weight, entry.loss_weight, options={"shots": (0,)})
        for name, entry in config.data.sources.items()
    }
    return dataclasses.replace(config, data=dataclasses.replace(config.data, sources=sources, phases=())).resolved()


def measure(config: RunConfig, name: str, *, steps: int, warmup: int, stream: bool) -> Measured:
    """Times `steps` steps after `warmup` others on all devices of all processes.

    Raises:
      InputError: what the config needs is not here.
    """
    trainer = Trainer(synthetic(config), Path())
    step, hardware_flops = _compile(trainer)
    state = create_state(trainer.config, trainer.model, trainer.batch_example(), trainer.plan)
    trainer.say(f"timing {steps} steps after {warmup} on {jax.device_count()} x {jax.devices()[0].device_kind}")
    fixed = trainer.put(next(iter(_stream(trainer, trainer.config))).batch)
    watchdog = Watchdog(config.guards.watchdog_seconds)
    try:
        state, seconds, _ = _time(step, state, itertools.repeat(fixed), warmup, steps, watchdog)
        all_seconds = np.sort(np.ravel(_of_all(seconds)))
        hbm_bytes = _peak_bytes()
        stream_seconds = wait_share = None
        if stream:
            trainer.say("timing the same with the config's own data")
            items = (trainer.put(item.batch) for item in _stream(trainer, config))
            state, seconds, waited = _time(step, state, items, warmup, steps, watchdog)
            stream_seconds, wait_share = _median_and_share(seconds, waited)
    finally:
        watchdog.close()
    device = jax.devices()[0]
    chip = chip_of(device.device_kind)
    return Measured(
        config=name,
        device_kind=device.device_kind,
        devices=jax.device_count(),
        chips=jax.device_count() / (chip.devices if chip else 1),
        seconds=tuple(all_seconds.tolist()),
        tokens=math.prod(trainer.batch.tokens.shape),
        images=math.prod(trainer.batch.image_mask.shape),
        model_flops=model_flops(config, None)["train"],
        hardware_flops=hardware_flops,
        peak_flops=jax.device_count() * chip.peak_flops / chip.devices if chip else None,
        hbm_bytes=hbm_bytes,
        stream_seconds=stream_seconds,
        wait_share=wait_share,
    )


def row(measured: Measured, plan: Mapping[str, Any] | None) -> list[str]:
    """The cells of COLUMNS; `plan` is the `train` part of a plan, None where there is none."""
    plan = plan or {}
    step = measured.step_seconds
    low, high = np.quantile(measured.seconds, [0.1, 0.9])

    def share(flops):
        return "-" if measured.peak_flops is None else f"{flops / step / measured.peak_flops:.1%}"

    def number(value, spelled, unit=1.0):
        return "-" if value is None else format(value / unit, spelled)

    return [
        measured.config,
        f"{measured.devices} x {measured.device_kind}",
        f"{step:.4g}",
        f"{low:.4g} to {high:.4g}",
        number(plan.get("estimated_seconds"), ".4g"),
        number(plan.get("roofline_seconds"), ".4g"),
        f"{measured.tokens / step / measured.chips:,.0f}",
        f"{measured.images / step / measured.chips:,.1f}",
        share(measured.model_flops),
        share(measured.hardware_flops),
        number(measured.hbm_bytes, ".2f", GIB),
        number(plan.get("hbm_bytes"), ".2f", GIB),
        number(measured.stream_seconds, ".4g"),
        number(measured.wait_share, ".1%"),
    ]


def table_line(cells: Sequence[str]) -> str:
    """Cells as a line of a Markdown table."""
    return f"| {' | '.join(cells)} |\n"


def read_plan(path: str) -> dict[str, Any]:
    """The `train` part of a file that `mmjax plan --json` wrote. Raises InputError."""
    try:
        plan = json.loads(Path(path).read_text(encoding="utf-8"))["train"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"--plan {path} is not what mmjax plan --json writes: {error!r}") from None
    for key in ("estimated_seconds", "roofline_seconds", "hbm_bytes"):
        if not isinstance(plan.get(key), (int, float)):
            raise InputError(f"--plan {path} has no train.{key}; write it anew with mmjax plan --json")
    return plan


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a row; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pod", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_argument(parser, required=True)
    parser.add_argument("--steps", type=int, default=30, metavar="N", help="steps that are timed (default 30)")
    parser.add_argument("--warmup", type=int, default=5, metavar="N", help="steps before them (default 5)")
    parser.add_argument("--no-stream", action="store_true", help="leave out the steps with the config's own data")
    parser.add_argument("--plan", metavar="FILE", help="what mmjax plan --json wrote for this slice")
    parser.add_argument("--out", metavar="FILE", help="a Markdown file that the row is added to")
    distributed.add_arguments(parser)
    options, settings = parser.parse_known_args(arguments)
    code, reason = 0, None
    try:
        _run(options, _overrides(settings))
    except Exception as error:
        peers.await_reason(error)
        code, reason = getattr(error, "exit_code", 1), error
        if isinstance(error, MmjaxError):
            print(f"error: {error}", file=sys.stderr)
        elif peers.current() is None:
            raise
        else:
            traceback.print_exc()
    return peers.leave(code, reason)


def _run(options, overrides) -> None:
    if options.steps < 2 or options.warmup < 1:
        raise InputError(f"--steps must be at least 2 and --warmup 1, not {options.steps} and {options.warmup}")
    plan = read_plan(options.plan) if options.plan else None
    config = load_config(options.config, overrides)
    distributed.join(options, heartbeat_seconds=config.guards.heartbeat_seconds)
    name = os.path.basename(options.config).replace(".py", "")
    measured = measure(config, name, steps=options.steps, warmup=options.warmup, stream=not options.no_stream)
    if jax.process_index():
        return
    line = table_line(row(measured, plan))
    head = table_line(COLUMNS) + table_line(["---"] * len(COLUMNS))
    print(head + line, end="", flush=True)
    if options.out:
        path = Path(options.out)
        is_new = not path.exists() or not path.read_text(encoding="utf-8").strip()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write((head if is_new else "") + line)


def _overrides(words) -> list[tuple[str, str]]:
    for word in words:
        if not word.startswith("--config.") or "=" not in word:
            raise InputError(f"there is no option {word}; a setting of the configuration is --config.KEY=VALUE")
    return [tuple(word.removeprefix("--config.").split("=", 1)) for word in words]


def _stream(trainer: Trainer, config: RunConfig) -> BatchStream:
    return BatchStream(
        config.data, trainer.tokenizer, batch_size=config.batch_size, seed=config.seed, rows=trainer.rows
    )


def _weights(config: RunConfig) -> tuple[float, ...]:
    return tuple(config.data.sources[name].loss_weight for name in sorted(config.data.sources))


def _compile(trainer: Trainer):
    """The compiled step, and the operations that it does."""
    abstract = trainer.plan.abstract
    batch = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        trainer.batch,
        trainer.batch_shardings,
    )
    step = make_train_step(trainer.config, trainer.model, trainer.plan, trainer.mesh, _weights(trainer.config))
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract), NamedSharding(trainer.mesh, PartitionSpec())
    flops = count_flops(step, abstract, batch).total
    return jax.jit(step, donate_argnums=0, out_shardings=places).lower(abstract, batch).compile(), flops


def _time(step, state, batches: Iterator[Batch], warmup: int, steps: int, watchdog):
    """Runs the steps: (state, seconds of each timed step, seconds waited for batches in each)."""
    # Steps are queued as in training, one ahead; simulated devices can deadlock in a queue.
    lag = 0 if jax.devices()[0].platform == "cpu" else 1
    running, ends, waits = collections.deque(), [], []
    for number in range(warmup + steps):
        watchdog.beat(f"timed step {number + 1}")
        began = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - began)
        state, metrics = step(state, batch)
        running.append(metrics.loss)
        while len(running) > lag:
            ends.append(_end_of(running.popleft()))
    ends.extend(_end_of(loss) for loss in running)
    return state, np.diff(ends)[-steps:], np.array(waits[-steps:])


def _end_of(loss) -> float:
    jax.block_until_ready(loss)
    return time.perf_counter()


def _of_all(values) -> np.ndarray:
    """The values of all processes, one row each."""
    values = np.asarray(values, np.float32)
    return np.reshape(multihost_utils.process_allgather(values), (jax.process_count(), -1))


def _median_and_share(seconds, waited) -> tuple[float, float]:
    """The median step of all processes, and the largest share that one of them spent waiting."""
    seconds, waited = _of_all(seconds), _of_all(waited)
    return float(np.median(seconds)), float(np.max(waited.sum(axis=1) / seconds.sum(axis=1)))


def _peak_bytes() -> int | None:
    """The fullest device's peak; None where devices do not tell."""
    told = [device.memory_stats() or {} for device in jax.local_devices()]
    peak = max(stats.get("peak_bytes_in_use", 0) for stats in told)
    # As GiB in float32 across processes: bytes of a full device do not fit in 32 bits.
    fullest = float(_of_all([peak / GIB]).max())
    return round(fullest * GIB) or None


if __name__ == "__main__":
    sys.exit(main())
