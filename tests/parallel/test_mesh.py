"""Mesh sizes: what fits a number of devices, what is filled in, and what is refused."""

import jax
import pytest

from mmjax.core.errors import ConfigError
from mmjax.parallel.mesh import AXES, MeshConfig, make_mesh


@pytest.mark.parametrize(
    ("config", "devices", "sizes"),
    [
        (MeshConfig(), 1, (1, 1, 1, 1, 1)),
        (MeshConfig(), 8, (1, 8, 1, 1, 1)),
        (MeshConfig(data=2, fsdp=-1, tensor=2), 8, (1, 2, 2, 2, 1)),
        (MeshConfig(slice=2, data=1, fsdp=16, tensor=4, sequence=2), 256, (2, 1, 16, 4, 2)),
        (MeshConfig(data=4, sequence=-1), 4, (1, 4, 1, 1, 1)),
    ],
)
def test_sizes(config, devices, sizes):
    assert config.sizes(devices) == sizes


@pytest.mark.parametrize(
    ("config", "devices", "message"),
    [
        (MeshConfig(fsdp=3), 8, "8 devices cannot be split over mesh axes of 3"),
        (MeshConfig(data=4), 8, "the mesh has 4 places but there are 8 devices; set one axis to -1"),
        (MeshConfig(data=2, fsdp=8), 8, "the mesh has 16 places but there are 8 devices"),
        (MeshConfig(fsdp=16), 8, "8 devices cannot be split over mesh axes of 16"),
        (MeshConfig(fsdp=-1), 8, "only one mesh axis may be -1"),
        (MeshConfig(data=1, tensor=0), 8, "mesh axes must be positive, or -1 for the rest; got .*'tensor': 0"),
        (MeshConfig(data=-2), 8, "mesh axes must be positive, or -1 for the rest; got .*'data': -2"),
    ],
)
def test_sizes_that_do_not_fit(config, devices, message):
    with pytest.raises(ConfigError, match=message):
        config.sizes(devices)


def test_the_mesh_has_all_axes_and_every_device_once():
    mesh = make_mesh(MeshConfig(data=2, fsdp=-1, tensor=2))
    assert mesh.axis_names == AXES and dict(mesh.shape) == dict(slice=1, data=2, fsdp=2, tensor=2, sequence=1)
    assert sorted(device.id for device in mesh.devices.flat) == list(range(8))
    one = make_mesh(MeshConfig(), jax.devices()[3:4])
    assert one.size == 1 and one.devices.item() == jax.devices()[3]
