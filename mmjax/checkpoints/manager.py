"""Saving and restoring the steps of a run: asynchronous, verified, with the newest good step to fall back to."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from mmjax.checkpoints import folder, manifest, store
from mmjax.checkpoints.checksum import finish_checksums, start_checksums
from mmjax.checkpoints.leaves import check_match, name_leaves, select_parts
from mmjax.checkpoints.manifest import LeafRecord, Manifest
from mmjax.core.arrays import PyTree
from mmjax.core.errors import CheckpointError, InputError


@dataclasses.dataclass(frozen=True)
class Restored:
    """A step as it was saved; `state` has the structure and the shardings of the `like` that it was read for."""

    step: int
    state: dict[str, PyTree]
    position: dict[str, int]
    config: dict[str, Any]
    metrics: dict[str, float]
    versions: dict[str, str]


class _DamageError(CheckpointError):
    """A step that is not as it was written; the next older one may be."""


class Checkpoints:
    """The checkpoints of one run, `DIRECTORY/STEP/`. Used as a context manager, it ends with `close`.

    Args:
      directory: where the steps lie; made by the first save.
      keep_last: how many of the newest steps are kept.
      keep_best: `(metric, "min" or "max")`: the best step by a metric given to `save` is kept as well.
      warn: is told, one line a time, which step is passed over and why.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        keep_last: int = 3,
        keep_best: tuple[str, str] | None = None,
        warn: Callable[[str], None] | None = None,
    ):
        if keep_last < 1:
            raise InputError(f"keep_last must be at least 1, not {keep_last}")
        if keep_best is not None and keep_best[1] not in ("min", "max"):
            raise InputError(f"keep_best must be a metric and min or max, not {keep_best}")
        self._directory = epath.Path(directory).absolute()
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._warn = warn or _print_warning
        self._worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._saving: concurrent.futures.Future | None = None
        self._current: int | None = None  # the step whose state is both in memory and on disk
        self._damaged: set[int] = set()
        self._swept = False

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def steps(self) -> list[int]:
        """Complete steps, in ascending order, without those found damaged."""
        return [step for step in folder.list_complete_steps(self._directory) if step not in self._damaged]

    def save(
        self,
        step: int,
        state: Mapping[str, PyTree],
        *,
        position: Mapping[str, int],
        config: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Starts saving a state and returns as soon as its arrays may be donated.

        Waits for the save before it, if that is still being written. A step that this object just saved or
        restored is not written again; any other step of the same number is replaced.

        Returns:
          Whether the step is being written.

        Raises:
          CheckpointError: this save cannot start, or the one before it failed.
          InputError: a leaf that is not a `jax.Array`, or a record that JSON cannot hold.
        """
        self.wait()
        if step == self._current:
            return False
        named = name_leaves(state)
        for name, leaf in named.items():
            if not isinstance(leaf, jax.Array):
                raise InputError(f"{name} must be a jax.Array to be saved, not {type(leaf).__name__}")
        unfinished = Manifest(
            step=step,
            leaves={name: LeafRecord(leaf.shape, leaf.dtype.name, "") for name, leaf in named.items()},
            position=manifest.clean_record(dict(position), "data position"),
            config=manifest.clean_record(dict(config), "configuration"),
            metrics=manifest.clean_metrics(dict(metrics or {})),
            versions=manifest.current_versions(),
        )
        try:
            self._make_room(step)
            with jax.transfer_guard("allow"):
                checksums = start_checksums(named)
                wait_for_arrays = store.start_write(
                    folder.step_folder(self._directory, step),
                    {name: leaf for name, leaf in named.items() if leaf.size},
                )
        except Exception as error:
            raise self._failed(step, error) from error
        self._saving = self._worker.submit(self._finish, unfinished, checksums, wait_for_arrays)
        self._current = step
        return True

    def check(self) -> None:
        """Raises the error of a save that has failed by now; costs nothing and waits for nothing."""
        if self._saving is not None and self._saving.done():
            self.wait()

    def wait(self) -> None:
        """Waits until the running save is complete.

        Raises:
          CheckpointError: it failed.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            try:
                saving.result()
            except CheckpointError:
                self._current = None
                raise

    def close(self) -> None:
        """Waits for the running save and ends the thread; raises as `wait` does."""
        try:
            self.wait()
        finally:
            self._worker.shutdown()

    def restore(
        self, step: int | None = None, *, like: Mapping[str, PyTree], parts: Iterable[str] | None = None
    ) -> Restored:
        """Reads the newest good step, or exactly `step`, and verifies every leaf.

        Args:
          like: the state, with `jax.ShapeDtypeStruct` (with sharding) or arrays as leaves.
          parts: the top-level parts to read, such as `("params",)`; all of them by default.

        Raises:
          CheckpointError: no step is good, `step` is not, or the state does not fit (every leaf that
            differs is named; an older step is never tried for that).
        """
        self.wait()
        wanted = select_parts(like, parts)
        steps = folder.list_steps(self._directory) if step is None else [step]
        for candidate in reversed(steps):
            try:
                restored = self._restore_step(candidate, wanted, whole=parts is None)
            except _DamageError as error:
                if step is not None:
                    raise CheckpointError(str(error)) from None
                self._warn(f"{error}; it is passed over")
                self._damaged.add(candidate)
                continue
            self._current = candidate
            return restored
        raise CheckpointError(f"{self._directory} has no {'good ' if steps else ''}checkpoint to restore")

    def _restore_step(self, step, wanted, *, whole) -> Restored:
        path = folder.step_folder(self._directory, step)
        if not path.exists():
            raise CheckpointError(f"{self._directory} has no step {step}; it has {self.steps() or 'none'}")
        try:
            record = manifest.read_manifest(path)
        except CheckpointError as error:
            raise _DamageError(f"checkpoint {path}: {error}") from None
        named = name_leaves(wanted)
        stored = {name: leaf for name, leaf in record.leaves.items() if whole or name.split("/")[0] in wanted}
        check_match(stored, named, f"checkpoint {path}")
        leaves = _read_verified(path, stored, named)
        state = jax.tree.unflatten(jax.tree.structure(wanted), [leaves[name] for name in named])
        return Restored(step, state, record.position, record.config, record.metrics, record.versions)

    def _make_room(self, step) -> None:
        if jax.process_index() != 0:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        if not self._swept:
            folder.sweep(self._directory)
            self._swept = True
        if folder.step_folder(self._directory, step).exists():
            folder.remove_step(self._directory, step)

    def _finish(self, unfinished, checksums, wait_for_arrays) -> None:
        """Runs in the thread: the manifest after the arrays, then the steps that are no longer kept."""
        try:
            wait_for_arrays()
            if jax.process_index() == 0:
                leaves = {
                    name: dataclasses.replace(unfinished.leaves[name], checksum=checksum)
                    for name, checksum in finish_checksums(checksums).items()
                }
                complete = dataclasses.replace(unfinished, leaves=leaves)
                complete.write(folder.step_folder(self._directory, unfinished.step))
                self._damaged.discard(unfinished.step)
                self._remove_old(unfinished.step)
        except Exception as error:
            raise self._failed(unfinished.step, error) from error

    def _remove_old(self, newest) -> None:
        metrics = {}
        for step in self.steps():
            try:
                metrics[step] = manifest.read_manifest(folder.step_folder(self._directory, step)).metrics
            except CheckpointError:
                self._damaged.add(step)
        kept = folder.steps_to_keep(metrics, keep_last=self._keep_last, keep_best=self._keep_best)
        for step in metrics:
            if step not in kept and step != newest:
                folder.remove_step(self._directory, step)

    def _failed(self, step, error) -> CheckpointError:
        path = folder.step_folder(self._directory, step)
        return CheckpointError(f"saving {path} failed: {_one_line(error)}; the steps before it are untouched")


def _read_verified(path, stored, named):
    """Reads the stored leaves into the shardings of `named`; any leaf whose checksum differs is damage."""
    shapes = {name: _abstract(leaf) for name, leaf in named.items()}
    try:
        leaves = store.read(path, {name: shape for name, shape in shapes.items() if shape.size})
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise _DamageError(f"checkpoint {path} cannot be read: {_one_line(error)}") from None
    for name, shape in shapes.items():
        if not shape.size:
            leaves[name] = jax.device_put(jnp.zeros(shape.shape, shape.dtype), shape.sharding)
    found = finish_checksums(start_checksums(leaves))
    damaged = [name for name, record in stored.items() if found[name] != record.checksum]
    if damaged:
        raise _DamageError(f"checkpoint {path} is damaged: {', '.join(damaged)} changed since it was written")
    return leaves


def _abstract(leaf) -> jax.ShapeDtypeStruct:
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 300 else text[:297] + '...'}"


def _print_warning(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
