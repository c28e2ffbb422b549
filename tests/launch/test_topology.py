"""Slices: what other programs call them, and what there is."""

import os
import subprocess
import sys

import pytest

from launch.topology import GENERATIONS, parse_slice
from mmjax.core.errors import InputError
from mmjax.parallel.chips import CHIPS

# Accelerator type, hosts, machine: cloud.google.com/tpu/docs/v4 ... v6e, kubernetes-engine/docs/concepts/plan-tpus.
KNOWN = {
    "v4:2x2x1": ("v4-8", 1, "ct4p-hightpu-4t"),
    "v4:4x4x4": ("v4-128", 16, "ct4p-hightpu-4t"),
    "v4:8x12x16": ("v4-3072", 384, "ct4p-hightpu-4t"),
    "v5e:1x1": ("v5litepod-1", 1, "ct5lp-hightpu-1t"),
    "v5e:2x2": ("v5litepod-4", 1, "ct5lp-hightpu-4t"),
    "v5e:16x16": ("v5litepod-256", 64, "ct5lp-hightpu-4t"),
    "v5p:2x2x1": ("v5p-8", 1, "ct5p-hightpu-4t"),
    "v5p:4x4x4": ("v5p-128", 16, "ct5p-hightpu-4t"),
    "v5p:8x8x16": ("v5p-2048", 256, "ct5p-hightpu-4t"),
    "v5p:16x16x24": ("v5p-12288", 1536, "ct5p-hightpu-4t"),
    "v6e:2x4": ("v6e-8", 2, "ct6e-standard-4t"),
    "v6e:16x16": ("v6e-256", 64, "ct6e-standard-4t"),
    "7x:4x4x4": ("tpu7x-128", 16, "tpu7x-standard-4t"),
}


@pytest.mark.parametrize("text", KNOWN)
def test_a_slice_has_its_published_names(text):
    chips = parse_slice(text)
    assert (chips.accelerator_type, chips.hosts, chips.machine) == KNOWN[text]
    assert chips.chips == chips.hosts * chips.chips_per_host
    assert str(chips) == text


def test_one_chip_is_a_host_of_its_own():
    chips = parse_slice("v6e:1x1")
    assert (chips.chips_per_host, chips.hosts, chips.machine) == (1, 1, "ct6e-standard-1t")


@pytest.mark.parametrize("text", ["v5x:4x4", "v5p", "v5p:4x4xx8", "v5p:8x16", "v5e:4x4x4", "v5p:3x4x4", "v6e:32x32"])
def test_what_is_no_slice_is_refused(text):
    with pytest.raises(InputError, match=f"--topology {text}: "):
        parse_slice(text)


def test_hosts_and_flags_are_those_of_the_tpu_runtime():
    """libtpu itself says how many hosts a slice has, and ends the process at a flag that it does not know."""
    pytest.importorskip("libtpu")
    texts = ["v4:4x4x8", "v5e:16x16", "v5p:4x4x4", "v6e:2x4", "7x:2x2x2"]
    program = (
        "from mmjax.planning.topology import parse_topology\n"
        f"for text in {texts}:\n"
        "    print(len({device.process_index for device in parse_topology(text).devices()}))\n"
    )
    surroundings = {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5p-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "LIBTPU_INIT_ARGS": " ".join(parse_slice(text).flags(slices=2) for text in texts),
    }
    result = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **surroundings}, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert [int(line) for line in result.stdout.split()] == [parse_slice(text).hosts for text in texts]


def test_every_chip_that_can_be_planned_for_has_names():
    assert list(GENERATIONS) == [name for name, chip in CHIPS.items() if chip.slices]
