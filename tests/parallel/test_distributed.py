"""Who takes part in a run, told by flags, variables or the place; and which rows a process' devices hold."""

import argparse
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.core.errors import InputError
from mmjax.parallel import distributed
from mmjax.parallel.distributed import Place, explicit_place, from_local_rows, local_rows, surrounding_place
from tests.cli.program import surroundings

FLAGS = {"--coordinator": "10.0.0.2:8476", "--processes": "4", "--process-id": "3"}
SLURM = {
    "SLURM_JOB_ID": "12",
    "SLURM_STEP_NODELIST": "gpu[01-02]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


@pytest.fixture(autouse=True)
def no_tpu(monkeypatch):
    monkeypatch.setattr(distributed, "_has_tpu", lambda: False)


def test_flags_and_their_variables_mean_the_same():
    expected = Place("flags", 4, "10.0.0.2:8476", 3)
    assert explicit_place(FLAGS, {}) == expected
    variables = {distributed.FLAGS[flag]: value for flag, value in FLAGS.items()}
    assert explicit_place(dict.fromkeys(FLAGS), variables) == expected
    assert explicit_place({**dict.fromkeys(FLAGS), "--process-id": "1"}, variables).process_id == 1  # flags go first
    assert explicit_place(dict.fromkeys(FLAGS), {}) is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"--processes": None}, r"--processes \(or MMJAX_PROCESSES\) must be given beside --coordinator 10.0.0.2:8476"),
        ({"--coordinator": None, "--process-id": None}, "--coordinator .* and --process-id .* must be given beside"),
        ({"--coordinator": "10.0.0.2"}, "--coordinator must be HOST:PORT"),
        ({"--coordinator": ":8476"}, "--coordinator must be HOST:PORT"),
        ({"--coordinator": "host:99999"}, "--coordinator must be HOST:PORT"),
        ({"--processes": "0"}, "--processes must be a number from 1 on, not '0'"),
        ({"--processes": "two"}, "--processes must be a number"),
        ({"--process-id": "4"}, "--process-id must be a number from 0 to 3, not '4'"),
        ({"--process-id": "-1"}, "--process-id must be a number from 0 to 3"),
    ],
)
def test_wrong_or_half_given_flags_are_named(change, message):
    with pytest.raises(InputError, match=message):
        explicit_place({**FLAGS, **change}, {})


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, None),
        (SLURM, Place("SLURM", 2)),
        ({**SLURM, "SLURM_NTASKS": "1"}, None),
        # One task on each node of 8 GPUs has them all; one task for each GPU has its own, which JAX finds.
        (
            {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_GPUS_ON_NODE": "8"},
            Place("SLURM", 2, local_devices=tuple(range(8))),
        ),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_GPUS_ON_NODE": "8"}, Place("SLURM", 2)),
        # A shell within an allocation, outside of srun.
        ({"SLURM_JOB_ID": "12", "SLURM_NTASKS": "2"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "2"}, Place("GKE", 4)),
        (
            {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0", "MEGASCALE_NUM_SLICES": "3"},
            Place("GKE", 6),
        ),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),  # where programs are compiled for absent chips
    ],
)
def test_places_are_known_by_their_variables(environment, expected):
    assert surrounding_place(environment) == expected


def test_a_variable_that_is_no_number_is_an_error():
    with pytest.raises(InputError, match=r"how many processes there are cannot be read: .*'many'"):
        surrounding_place({**SLURM, "SLURM_NTASKS": "many"})


@pytest.mark.parametrize("endpoints, slices, expected", [("a,b,c,d", "2", 8), ("a", None, None), (None, None, None)])
def test_cloud_tpu_is_asked_for_its_hosts(monkeypatch, endpoints, slices, expected):
    told = {"worker-network-endpoints": endpoints, "tpu-env": f"ZONE: 'x'\nMEGASCALE_NUM_SLICES: '{slices or 1}'\n"}
    monkeypatch.setattr(distributed, "_has_tpu", lambda: True)
    monkeypatch.setattr(distributed, "_metadata", told.get)
    assert surrounding_place({}) == (Place("Cloud TPU", expected) if expected else None)


def test_nothing_is_done_for_one_process(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", pytest.fail)
    parser = argparse.ArgumentParser()
    distributed.add_arguments(parser)
    distributed.join(parser.parse_args([]), heartbeat_seconds=100)
    one = ["--coordinator", "localhost:1", "--processes", "1", "--process-id", "0"]
    distributed.join(parser.parse_args(one), heartbeat_seconds=100)
    with pytest.raises(InputError, match="--join-seconds must be more than 0"):
        distributed.join(parser.parse_args(["--join-seconds", "0"]), heartbeat_seconds=100)


@pytest.mark.parametrize("process", [0, 1])
def test_processes_that_do_not_meet_end_with_one_line_that_names_the_address(process, tmp_path):
    code = (
        "import argparse, sys; from mmjax.parallel import distributed; parser = argparse.ArgumentParser(); "
        "distributed.add_arguments(parser); distributed.join(parser.parse_args(), heartbeat_seconds=100)"
    )
    flags = ["--coordinator", "localhost:9", "--processes", "2", "--process-id", "1"]
    if process == 0:
        flags = ["--coordinator", f"localhost:{free_port()}", "--processes", "2", "--process-id", "0"]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *flags, "--join-seconds", "2"],
        capture_output=True,
        text=True,
        timeout=120,
        env=surroundings(JAX_PLATFORMS="cpu"),
    )
    assert done.returncode == 1 and time.monotonic() - began < 100
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "within 2 s" in lines[0] and f"coordinator {flags[1]}" in lines[0], done.stderr


def free_port():
    import socket

    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


class OfDevices:
    """A sharding as a process with some of its devices sees it."""

    def __init__(self, sharding, devices):
        self.sharding, self.devices = sharding, devices

    def addressable_devices_indices_map(self, shape):
        whole = self.sharding.devices_indices_map(shape)
        return {device: whole[device] for device in self.devices}


@pytest.mark.parametrize(
    "grid, spec, processes, expected",
    [
        # Whole blocks of rows a process.
        ((8, 1), ("data",), 2, [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15]]),
        # A tensor axis across processes: all of them hold the same rows.
        ((1, 8), ("data",), 2, [list(range(16))] * 2),
        ((2, 4), ("data",), 4, [list(range(8))] * 2 + [list(range(8, 16))] * 2),
    ],
)
def test_a_process_holds_the_rows_of_its_devices(grid, spec, processes, expected):
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(grid), ("data", "tensor"))
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    share = 8 // processes
    held = [
        local_rows(OfDevices(sharding, jax.devices()[start : start + share]), (16, 5)) for start in range(0, 8, share)
    ]
    assert held == expected


def test_rows_that_are_not_consecutive_are_read_once_and_land_where_they_belong():
    # The batch goes over the second axis, of which each process has every other part.
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 4).T, ("data", "tensor"))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    mine = [jax.devices()[0], jax.devices()[2], jax.devices()[4], jax.devices()[6]]
    rows = local_rows(OfDevices(sharding, mine), (8, 3))
    assert rows == [0, 1, 4, 5]
    whole = np.arange(24).reshape(8, 3)
    seen = {}

    def make(shape, sharding, part):
        return {device: part(index) for device, index in sharding.addressable_devices_indices_map(shape).items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "make_array_from_callback", make)
        seen = from_local_rows(rows, whole[rows], OfDevices(sharding, mine), 8)
    for device, index in sharding.devices_indices_map((8, 3)).items():
        if device in mine:
            np.testing.assert_array_equal(seen[device], whole[index])


def test_all_rows_make_the_whole_array():
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("data", "sequence"))
    sharding = NamedSharding(mesh, PartitionSpec("data", "sequence"))
    whole = np.arange(48).reshape(8, 6)
    rows = local_rows(sharding, whole.shape)
    assert rows == list(range(8))
    np.testing.assert_array_equal(from_local_rows(rows, whole, sharding, 8), whole)
