"""One of several processes that save a state together, read it back, and fall back together from a damaged step."""

import os
import pathlib
import sys

port, index, count, directory = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), pathlib.Path(sys.argv[4])
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import multihost_utils  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

from mmjax.checkpoints.manager import Checkpoints  # noqa: E402

jax.distributed.initialize(f"localhost:{port}", num_processes=count, process_id=index)
mesh = Mesh(np.array(jax.devices()).reshape(-1, 2), ("data", "fsdp"))
VALUES = np.arange(32 * 1024, dtype=np.float32).reshape(32, 1024)


def state_at(step):
    specs = {"rows": PartitionSpec("data"), "both": PartitionSpec("fsdp", "data"), "whole": PartitionSpec()}
    place = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
    return {
        "params": {
            name: jax.make_array_from_callback(VALUES.shape, sharding, lambda part: VALUES[part] + step)
            for name, sharding in place.items()
        }
    }


said = []
with Checkpoints(directory, keep_last=2, warn=said.append) as checkpoints:
    for step in (1, 2, 3):
        checkpoints.save(step, state_at(step), position={"slot": step}, config={})
multihost_utils.sync_global_devices("saved")
if index == 0:
    newest = max((directory / "3").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 8
    newest.write_bytes(data)
multihost_utils.sync_global_devices("damaged")
with Checkpoints(directory, warn=said.append) as checkpoints:
    restored = checkpoints.restore(like=state_at(0))
expected = state_at(2)["params"]
for name, leaf in restored.state["params"].items():
    for mine, theirs in zip(leaf.addressable_shards, expected[name].addressable_shards, strict=True):
        np.testing.assert_array_equal(mine.data, theirs.data)
print(f"restored {restored.step}, warnings {len(said)}, folders {sorted(path.name for path in directory.iterdir())}")
