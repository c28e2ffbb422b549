"""Strict surroundings for every test: simulated devices, no silent promotion, warnings are errors (pytest.ini)."""

import os

from tests.flags import QUICK_FLAGS

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("NPROC", "16")  # with fewer, simulated devices can deadlock on a small machine
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_FLAGS} --xla_force_host_platform_device_count=8"
os.environ["HF_HUB_OFFLINE"] = "1"

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def _drop_compiled_programs():
    """Programs of one module are no use to the next; dropping them keeps memory flat over the whole suite."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def torch():
    """What the reference implementations run on."""
    return pytest.importorskip("torch", reason="the reference implementations need torch, which this Python lacks")


@pytest.fixture(scope="module")
def quick_programs(tmp_path_factory):
    """Programs that run for a second are not worth optimising, and those that are there already are taken again."""
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.getbasetemp() / "programs"))
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()


@pytest.fixture
def no_java(monkeypatch):
    """METEOR's program takes half a minute a file, and has tests of its own."""
    from mmjax.evaluation.metrics import java

    def unavailable(*_):
        raise java.Unavailable("not asked for")

    monkeypatch.setattr(java, "meteor", unavailable)
