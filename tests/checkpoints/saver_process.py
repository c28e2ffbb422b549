"""One of several processes that together save a state, read it, or fall back from a damaged step.

Arguments: port, this process, their number, directory, and what to do. There are four devices over all processes.
"""

import os
import pathlib
import sys

port, index, count, directory = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), pathlib.Path(sys.argv[4])
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={4 // count}"

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import multihost_utils  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

from mmjax.checkpoints.manager import Checkpoints  # noqa: E402

if count > 1:
    jax.distributed.initialize(f"localhost:{port}", num_processes=count, process_id=index)
mesh = Mesh(np.array(jax.devices()).reshape(-1, 2), ("data", "fsdp"))
VALUES = np.arange(32 * 1024, dtype=np.float32).reshape(32, 1024)
said = []


def state_at(step):
    specs = {"rows": PartitionSpec("data"), "both": PartitionSpec("fsdp", "data"), "whole": PartitionSpec()}
    place = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
    return {
        "params": {
            name: jax.make_array_from_callback(VALUES.shape, sharding, lambda part: VALUES[part] + step)
            for name, sharding in place.items()
        }
    }


def save():
    with Checkpoints(directory, keep_last=2, warn=said.append) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state_at(step), position={"slot": step}, config={})
    multihost_utils.sync_global_devices("saved")


def damage_newest():
    if index == 0:
        newest = max((directory / "3").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
        data = bytearray(newest.read_bytes())
        data[len(data) // 2] ^= 8
        newest.write_bytes(data)
    multihost_utils.sync_global_devices("damaged")


def read():
    with Checkpoints(directory, warn=said.append) as checkpoints:
        restored = checkpoints.restore(like=state_at(0))
    for leaf in restored.state["params"].values():
        for mine in leaf.addressable_shards:
            np.testing.assert_array_equal(mine.data, VALUES[mine.index] + restored.step)
    folders = sorted(path.name for path in directory.iterdir())
    print(f"restored {restored.step}, warnings {len(said)}, folders {folders}")


for what in sys.argv[5:]:
    {"save": save, "damage": damage_newest, "read": read}[what]()
