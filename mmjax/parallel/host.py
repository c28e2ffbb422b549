"""The host's memory, where the host is also the device."""

from __future__ import annotations

import ctypes
import glob
import importlib.metadata
import importlib.util
import platform

import jax

# Parameters of glibc's mallopt, as its malloc.h numbers them.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def leave_absent_tpu() -> None:
    """Where libtpu is installed (to plan) but there is no TPU, keeps JAX from looking for one, which takes long.

    Call it before JAX starts its backends; a platform that was chosen already stays.
    """
    present = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    if jax.config.jax_platforms or present or importlib.util.find_spec("libtpu") is None:
        return
    plugins = [entry.name for entry in importlib.metadata.entry_points(group="jax_plugins")]
    if not plugins:
        jax.config.update("jax_platforms", "cpu")
    elif any("cuda" in name for name in plugins):
        jax.config.update("jax_platforms", "cuda,cpu")


def keep_freed_memory() -> bool:
    """Where only CPUs can be JAX's devices, has the allocator keep what it frees; True where it does (glibc).

    Every step allocates and frees the same large buffers. Given back to the system each time, their pages are mapped
    and zeroed anew in the next step (`benchmarks/allocator.py`). Call it before JAX makes its threads, which take what
    they allocate from places of their own.
    """
    if not _cpu_only() or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return all([libc.mallopt(_ARENA_MAX, 1), libc.mallopt(_MMAP_MAX, 0), libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)])


def _cpu_only():
    if jax.config.jax_platforms:
        return jax.config.jax_platforms == "cpu"
    return not importlib.metadata.entry_points(group="jax_plugins") and importlib.util.find_spec("libtpu") is None
