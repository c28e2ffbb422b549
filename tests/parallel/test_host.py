import os
import platform
import subprocess
import sys

import pytest

# Allocates and frees 64 MB ten times; prints how many pages the system had to give meanwhile.
PROGRAM = """
import ctypes, resource, sys
from mmjax.parallel.host import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "kept" else None)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size = 1 << 26
def use():
    place = libc.malloc(size)
    ctypes.memset(place, 1, size)
    libc.free(place)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(way, **surroundings):
    command = [sys.executable, "-c", PROGRAM, way]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **surroundings})
    said, faults = done.stdout.split()
    return said, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told")
def test_freed_memory_is_kept_where_cpus_are_the_devices():
    said, faults = run("kept", JAX_PLATFORMS="cpu")
    assert said == "True" and faults < 100
    assert run("returned")[1] > 1000
    assert run("kept", JAX_PLATFORMS="cuda,cpu")[0] == "False"
