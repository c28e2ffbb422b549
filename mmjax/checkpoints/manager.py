"""Saving and restoring the steps of a run: asynchronous, verified, with the newest good step to fall back to."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

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
          InputError: a leaf that is not a `jax.Array`, or a configuration that JSON cannot hold.
        """
        self.wait()
        if step == self._current:
            return False
        named = name_leaves(state)
        for name, leaf in named.items():
            if not isinstance(leaf, jax.Array) or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended):
                raise InputError(f"{name} must be a jax.Array of numbers to be saved, not {leaf}")
        unfinished = Manifest(
            step=step,
            leaves={name: LeafRecord(leaf.shape, leaf.dtype.name, "") for name, leaf in named.items()},
            files={},
            position={name: int(value) for name, value in position.items()},
            config=manifest.clean_config(config),
            metrics=manifest.clean_metrics(dict(metrics or {})),
            versions=manifest.current_versions(),
        )
        try:
            self._make_room(step)
            with jax.transfer_guard("allow"):
                checksums = start_checksums(named)
                wait_for_arrays = store.start_write(self._folder(step), named)
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
        steps = _agreed(folder.list_steps(self._directory))
        if step is not None and step not in steps:
            raise CheckpointError(f"{self._directory} has no step {step}; it has {_listed(steps)}")
        for candidate in reversed(steps if step is None else [step]):
            try:
                restored = self._restore_step(candidate, wanted, whole=parts is None)
            except _DamageError as error:
                if step is not None:
                    raise
                self._warn(f"{error}; it is passed over")
                self._damaged.add(candidate)
                continue
            self._current = candidate if parts is None else None
            return restored
        raise CheckpointError(f"{self._directory} has no good checkpoint; its steps are: {_listed(steps)}")

    def _restore_step(self, step, wanted, *, whole) -> Restored:
        path = self._folder(step)
        record = _read_manifest(path)
        named = name_leaves(wanted)
        stored = {name: leaf for name, leaf in record.leaves.items() if whole or name.split("/")[0] in wanted}
        check_match(stored, named, f"checkpoint {path}")
        leaves = _read_verified(path, record, {name: _abstract(leaf) for name, leaf in named.items()})
        state = jax.tree.unflatten(jax.tree.structure(wanted), [leaves[name] for name in named])
        return Restored(step, state, record.position, record.config, record.metrics, record.versions)

    def _make_room(self, step) -> None:
        if jax.process_index() != 0:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        if not self._swept:
            folder.sweep(self._directory)
            self._swept = True
        if self._folder(step).exists():
            folder.remove_step(self._directory, step)

    def _finish(self, unfinished, checksums, wait_for_arrays) -> None:
        """Runs in the thread: the manifest after the arrays, then the steps that are no longer kept."""
        try:
            wait_for_arrays()
            if jax.process_index() == 0:
                path = self._folder(unfinished.step)
                found = finish_checksums(checksums)
                leaves = {
                    name: dataclasses.replace(leaf, checksum=found[name]) for name, leaf in unfinished.leaves.items()
                }
                files = manifest.record_files(path)
                dataclasses.replace(unfinished, leaves=leaves, files=files).write(path)
                self._damaged.discard(unfinished.step)
                self._remove_old(unfinished.step)
        except Exception as error:
            self._clear_failed(unfinished.step)
            raise self._failed(unfinished.step, error) from error

    def _clear_failed(self, step) -> None:
        """Gives back the room that a failed save took; what cannot be removed now goes before the next save."""
        self._swept = False
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):
                if self._folder(step).exists():
                    folder.remove_step(self._directory, step)
                folder.sweep(self._directory)

    def _remove_old(self, newest) -> None:
        metrics = {}
        for step in self.steps():
            with contextlib.suppress(CheckpointError):  # damaged: counts for nothing, and is left for its owner to see
                metrics[step] = manifest.read_manifest(self._folder(step)).metrics
        kept = folder.steps_to_keep(metrics, keep_last=self._keep_last, keep_best=self._keep_best)
        for step in metrics:
            if step not in kept and step != newest:
                folder.remove_step(self._directory, step)

    def _folder(self, step) -> epath.Path:
        return folder.step_folder(self._directory, step)

    def _failed(self, step, error) -> CheckpointError:
        path = self._folder(step)
        return CheckpointError(f"saving {path} failed: {_one_line(error)}; the steps before it are untouched")


def _read_manifest(path) -> Manifest:
    record, damage = None, None
    try:
        record = manifest.read_manifest(path)
        if jax.process_index() == 0:
            manifest.check_files(path, record.files)
    except CheckpointError as error:
        damage = str(error)
    _raise_on_all(path, damage)
    return record


def _read_verified(path, record, shapes):
    """Reads the leaves into the shardings of `shapes`; any leaf whose checksum differs is damage."""
    leaves, damage = {}, None
    try:
        leaves = store.read_arrays(path, shapes)
    except CheckpointError as error:
        damage = str(error)
    _raise_on_all(path, damage)
    found = finish_checksums(start_checksums(leaves))
    changed = [name for name in shapes if found[name] != record.leaves[name].checksum]
    if changed:
        raise _DamageError(f"checkpoint {path} is damaged: {', '.join(changed)} changed since it was written")
    return leaves


def _raise_on_all(path, damage) -> None:
    """Raises on every process if one of them found damage, so that all go to the same older step."""
    anywhere = damage is not None
    if jax.process_count() > 1:
        anywhere = bool(multihost_utils.process_allgather(np.array(anywhere)).any())
    if anywhere:
        raise _DamageError(f"checkpoint {path} is damaged: {damage or 'another process says how'}")


def _agreed(steps: list[int]) -> list[int]:
    """The steps that process 0 sees: another one may see a step come or go a moment later."""
    if jax.process_count() == 1:
        return steps
    count = int(multihost_utils.broadcast_one_to_all(np.int32(len(steps))))
    mine = np.array((steps + [0] * count)[:count], np.int32)
    return [int(step) for step in multihost_utils.broadcast_one_to_all(mine)]


def _abstract(leaf) -> jax.ShapeDtypeStruct:
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _listed(steps) -> str:
    return ", ".join(map(str, steps)) or "none"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 300 else text[:297] + '...'}"


def _print_warning(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
