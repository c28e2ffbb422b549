"""Checksums: the same for every sharding and on the host, different for every changed bit."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.checkpoints.checksum import finish_checksums, host_checksum, start_checksums

DTYPES = [np.float32, np.int32, np.uint8, np.bool_, np.int16, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]


def random_array(shape, dtype, seed=0):
    generator = np.random.default_rng(seed)
    if dtype == np.bool_:
        return generator.integers(0, 2, shape).astype(np.bool_)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return generator.integers(0, 256, size, np.uint8).view(dtype).reshape(shape)


def checksum(array):
    return finish_checksums(start_checksums({"leaf": jnp.asarray(array)}))["leaf"]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("shape", [(), (1,), (7, 13), (8, 4, 6), (0, 3)])
def test_device_and_host_agree(dtype, shape):
    array = random_array(shape, dtype)
    assert checksum(array) == host_checksum(array)


def test_an_array_longer_than_the_hosts_chunks_agrees():
    array = random_array((3, 70_001), np.float32)
    assert checksum(array) == host_checksum(array)


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_64_bits_agree_where_they_are_enabled(dtype):
    array = random_array((5, 3), dtype)
    with jax.enable_x64(True):
        assert checksum(array) == host_checksum(array)


@pytest.mark.parametrize(
    "spec", [PartitionSpec(), PartitionSpec("a", "b"), PartitionSpec(None, "a"), PartitionSpec(("b", "a"))], ids=str
)
def test_every_sharding_has_the_same_checksum(spec):
    array = random_array((16, 24), ml_dtypes.bfloat16)
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    sharded = jax.device_put(array, NamedSharding(mesh, spec))
    single = jax.device_put(array, jax.devices()[3])
    found = finish_checksums(start_checksums({"sharded": sharded, "single": single}))
    assert found == {"sharded": host_checksum(array), "single": host_checksum(array)}


def test_any_single_bit_changes_each_lane():
    array = random_array((3, 5), np.float32)
    whole = host_checksum(array)
    for bit in range(array.nbytes * 8):
        changed = array.copy()
        changed.view(np.uint8).reshape(-1)[bit // 8] ^= 1 << (bit % 8)
        found = host_checksum(changed)
        assert found[:8] != whole[:8]
        assert found[8:] != whole[8:]


def test_order_counts():
    array = random_array((64,), np.float32)
    for i, j in [(0, 1), (3, 60), (31, 32)]:
        swapped = array.copy()
        swapped[[i, j]] = swapped[[j, i]]
        assert host_checksum(swapped) != host_checksum(array)
    assert host_checksum(np.zeros(4, np.float32)) != host_checksum(np.zeros(5, np.float32))
