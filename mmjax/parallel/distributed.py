"""Several processes as one: how they find each other, and which rows of a global batch each one holds.

`join` sets up `jax.distributed` where there are several processes, and does nothing for one. Who takes part is told by
flags, by environment variables, or by the place: Cloud TPU, GKE and SLURM, where JAX itself asks for addresses
(https://docs.jax.dev/en/latest/multi_process.html). What the processes tell each other then is in `peers`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from mmjax.core.arrays import Array, Shaped
from mmjax.core.errors import InputError
from mmjax.parallel import peers

# Each flag and the environment variable that stands for it.
FLAGS = {
    "--coordinator": "MMJAX_COORDINATOR",
    "--processes": "MMJAX_PROCESSES",
    "--process-id": "MMJAX_PROCESS_ID",
}
JOIN_SECONDS = 300.0

# What srun gives to every task (https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES).
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
# https://cloud.google.com/compute/docs/metadata/querying-metadata
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"


@dataclasses.dataclass(frozen=True)
class Place:
    """Who takes part: given explicitly, or left (None) to what JAX finds in the place that `name` says.

    local_devices: the GPUs of this process, where the place would give it fewer.
    """

    name: str
    processes: int
    coordinator: str | None = None
    process_id: int | None = None
    local_devices: tuple[int, ...] | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a verb that several processes can run together."""
    group = parser.add_argument_group(
        "several processes", "found by themselves on Cloud TPU, GKE and SLURM; the same command runs on every host"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens (or MMJAX_COORDINATOR)")
    group.add_argument("--processes", metavar="N", help="how many processes there are (or MMJAX_PROCESSES)")
    group.add_argument("--process-id", metavar="I", help="which one this is, counted from 0 (or MMJAX_PROCESS_ID)")
    group.add_argument(
        "--join-seconds",
        type=float,
        default=JOIN_SECONDS,
        metavar="S",
        help=f"how long the processes wait for each other at the start (default {JOIN_SECONDS:.0f})",
    )


def join(options: argparse.Namespace, *, heartbeat_seconds: float) -> None:
    """Joins the processes of this run, if there are several; call it before JAX's devices are first used.

    A process that gives no sign of life for `heartbeat_seconds` ends all others. Where not all processes meet within
    `options.join_seconds`, this one ends with one line and exit code 1.

    Raises:
      InputError: a flag or variable is wrong, or missing beside the others.
    """
    if options.join_seconds <= 0:
        raise InputError(f"--join-seconds must be more than 0, not {options.join_seconds:g}")
    given = {name: getattr(options, name.removeprefix("--").replace("-", "_")) for name in FLAGS}
    place = explicit_place(given, os.environ) or surrounding_place(os.environ)
    if place is None or place.processes == 1:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    meet = threading.Timer(options.join_seconds, _give_up, (place, options.join_seconds))
    meet.daemon = True
    meet.start()
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.processes if place.coordinator else None,
            place.process_id,
            local_device_ids=place.local_devices,
            # Its own time-out ends the process with a stack of C++, so it comes after ours.
            initialization_timeout=int(options.join_seconds) + 60,
            # JAX beats twice in its time-out: from one half of it on it may end the process, without a reason.
            heartbeat_timeout_seconds=round(2 * heartbeat_seconds),
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"the processes of this run cannot be joined ({_where(place)}): {error}") from None
    finally:
        meet.cancel()
    peers.start(heartbeat_seconds)


def explicit_place(given: Mapping[str, str | None], environment: Mapping[str, str]) -> Place | None:
    """The place that flags (by name, None where absent) or their variables name; None where there are none of them.

    Raises:
      InputError: some are there and some are not, or one is not what it should be.
    """
    found = {flag: given.get(flag) or environment.get(variable) for flag, variable in FLAGS.items()}
    missing = [f"{flag} (or {FLAGS[flag]})" for flag, value in found.items() if not value]
    if len(missing) == len(found):
        return None
    if missing:
        there = ", ".join(f"{flag} {value}" for flag, value in found.items() if value)
        raise InputError(f"{' and '.join(missing)} must be given beside {there}")
    coordinator, processes, process_id = found.values()
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"--coordinator must be HOST:PORT, such as 10.0.0.2:8476, not {coordinator!r}")
    if not processes.isdecimal() or int(processes) < 1:
        raise InputError(f"--processes must be a number from 1 on, not {processes!r}")
    if not process_id.isdecimal() or int(process_id) >= int(processes):
        raise InputError(f"--process-id must be a number from 0 to {int(processes) - 1}, not {process_id!r}")
    return Place("flags", int(processes), coordinator, int(process_id))


def surrounding_place(environment: Mapping[str, str]) -> Place | None:
    """SLURM, GKE or Cloud TPU with several processes, as their documented variables tell; None elsewhere."""
    slices = environment.get("MEGASCALE_NUM_SLICES", "1") or "1"
    workers = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    try:
        if all(name in environment for name in _SLURM) and int(environment["SLURM_NTASKS"]) > 1:
            return Place("SLURM", int(environment["SLURM_NTASKS"]), local_devices=_slurm_devices(environment))
        if workers and "TPU_WORKER_ID" in environment:
            return _several("GKE", len(workers.split(",")) * int(slices))
        if _has_tpu() and "TPU_SKIP_MDS_QUERY" not in environment:
            endpoints = len((_metadata("worker-network-endpoints") or "here").split(","))
            return _several("Cloud TPU", endpoints * int(slices if slices != "1" else _metadata_slices()))
    except ValueError as error:
        raise InputError(f"the variables that say how many processes there are cannot be read: {error}") from None
    return None


def _several(name: str, processes: int) -> Place | None:
    return Place(name, processes) if processes > 1 else None


def _slurm_devices(environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """All GPUs of the node for its only task, to which JAX would give the first one; None: one for each task."""
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", ""))
    devices = environment.get("SLURM_GPUS_ON_NODE", "")
    alone = tasks.split("(")[0] == "1" and "," not in tasks
    return tuple(range(int(devices))) if alone and devices.isdecimal() and int(devices) > 1 else None


def _has_tpu() -> bool:
    """Whether this host has TPU chips: v2 to v4 as /dev/accel*, later ones as /dev/vfio/*."""
    return any(Path("/dev").glob("accel[0-9]*")) or any(Path("/dev/vfio").glob("[0-9]*"))


def _metadata(name: str) -> str | None:
    request = urllib.request.Request(_METADATA + name, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, TimeoutError):
        return None


def _metadata_slices() -> str:
    for line in (_metadata("tpu-env") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "MEGASCALE_NUM_SLICES":
            return value.strip().strip("'")
    return "1"


def _where(place: Place) -> str:
    if place.coordinator:
        return f"process {place.process_id} of {place.processes}, coordinator {place.coordinator}"
    return f"{place.processes} processes on {place.name}"


def _give_up(place: Place, seconds: float) -> None:
    who = "not all other processes came" if place.process_id == 0 else "process 0 could not be met"
    print(
        f"error: {who} within {seconds:g} s ({_where(place)}): start all processes at the same time, with the same "
        "coordinator, an address and port of process 0 that every host can reach, or raise --join-seconds",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def local_rows(sharding: Sharding, shape: tuple[int, ...]) -> list[int]:
    """Rows of an array of `shape` that the devices of this process hold, each once, in ascending order.

    Processes share rows where `sharding` splits the array within them, and a process' rows need not be consecutive.
    """
    rows: set[int] = set()
    for index in sharding.addressable_devices_indices_map(shape).values():
        rows.update(range(*index[0].indices(shape[0])) if index else ())
    return sorted(rows)


def from_local_rows(
    rows: Sequence[int], local: Shaped[np.ndarray, "..."], sharding: Sharding, count: int
) -> Shaped[Array, "..."]:
    """The global array of `count` rows of which `local` holds `rows`, at least those that `local_rows` names."""
    shape = (count, *local.shape[1:])

    def part(index):
        start, stop, _ = index[0].indices(count)
        first = int(np.searchsorted(rows, start))
        return local[(slice(first, first + stop - start), *index[1:])]

    with jax.transfer_guard_host_to_device("allow"):  # JAX takes these for transfers that nobody asked for
        return jax.make_array_from_callback(shape, sharding, part)


def check_same(value: int, what: str) -> None:
    """Compares a number with that of the other processes.

    Raises:
      InputError: it differs; `what` names it.
    """
    if jax.process_count() == 1:
        return
    values = multihost_utils.process_allgather(np.array(value, np.int32)).tolist()
    if len(set(values)) > 1:
        listed = ", ".join(f"{one} on process {index}" for index, one in enumerate(values[:8]))
        raise InputError(f"{what} is not the same for all processes: {listed}")
