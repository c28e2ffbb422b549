"""Names of slices: which exist, what they hold, and what is said of those that do not."""

import importlib.util
import json
import subprocess
import sys

import pytest

from mmjax.core.errors import InputError
from mmjax.planning.compiler import environment_of_compiler
from mmjax.planning.topology import parse_topology

SLICES = [
    # text, name, chips, devices, hosts
    ("v5p:8x8x16", "v5p:8x8x16", 1024, 1024, 256),
    ("v5e:16x16", "v5e:16x16", 256, 256, 64),
    ("v4:8x8x12", "v4:8x8x12", 768, 768, 192),
    ("v6e:8x8", "v6e:8x8", 64, 64, 16),
    ("7x:4x4x4", "7x:4x4x4", 64, 128, 16),
    ("tpu7x:2x2x1", "7x:2x2x1", 4, 8, 1),
    ("v5e-256", "v5e:16x16", 256, 256, 64),
    ("v5e-1", "v5e:1x1", 1, 1, 1),
    ("v4-1536", "v4:8x12x16", 1536, 1536, 384),
    ("v5p-1024", "v5p:8x8x16", 1024, 1024, 256),
]


@pytest.mark.parametrize(("text", "name", "chips", "devices", "hosts"), SLICES)
def test_a_slice_by_shape_or_by_count(text, name, chips, devices, hosts):
    topology = parse_topology(text)
    assert (topology.name, topology.chip_count, topology.device_count, topology.host_count) == (
        name,
        chips,
        devices,
        hosts,
    )
    assert parse_topology(topology.name) == topology
    twice = parse_topology(text, slices=2)
    assert (twice.chip_count, twice.device_count, twice.host_count) == (2 * chips, 2 * devices, 2 * hosts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5p:16x8x8", "nearest is v5p:8x8x16"),
        ("v5p:8x8", "nearest is v5p:4x4x4"),
        ("v5p:5x5x5", "nearest is v5p:4x4x4"),
        ("v5p:16x16x28", "nearest is v5p:16x16x24"),
        ("v5e:16x32", "nearest is v5e:16x16"),
        ("v5e:0x4", "nearest is v5e:2x4"),
        ("v5e-100", r"no slice of 100 v5e chips; the nearest is v5e-128 \(v5e:8x16\)"),
        ("v5", "did you mean v5e|did you mean v5p"),
        ("H100:2x2", "not a TPU that can be planned for"),
        ("v5e", "write v5e:16x16, or v5e-256 for 256 chips"),
        ("v5p:axb", "write v5p:8x8x16"),
    ],
)
def test_what_does_not_exist_names_the_nearest(text, message):
    with pytest.raises(InputError, match=message):
        parse_topology(text)


def test_no_slices_are_refused():
    with pytest.raises(InputError, match="give 1 or more"):
        parse_topology("v5e:4x4", slices=0)


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler: pip install mmjax[plan]"
)
def test_absent_devices_are_those_of_the_slice():
    program = """
import json, sys
from mmjax.parallel.chips import chip_of
from mmjax.planning.topology import parse_topology
found = []
for text, slices in json.loads(sys.argv[1]):
    devices = parse_topology(text, slices).devices()
    sides = [max(device.coords[i] for device in devices) + 1 for i in range(3)]
    of = [getattr(device, "slice_index", None) or 0 for device in devices]
    found.append([len(devices), chip_of(devices[0].device_kind).name, sides, of == sorted(of), len(set(of))])
print(json.dumps(found))
"""
    asked = [(text, slices) for text, *_ in SLICES for slices in (1, 2)]
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(asked)],
        env=environment_of_compiler(),
        capture_output=True,
        text=True,
        check=True,
    )
    for (text, slices), found in zip(asked, json.loads(done.stdout.splitlines()[-1]), strict=True):
        topology = parse_topology(text, slices)
        sides = [*topology.shape, 1][:3]
        assert found == [topology.device_count, topology.chip.name, sides, True, slices]
