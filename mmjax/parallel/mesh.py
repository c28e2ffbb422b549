"""The device mesh: five named axes, of which any may have size 1."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils

from mmjax.core.errors import ConfigError

AXES = ("slice", "data", "fsdp", "tensor", "sequence")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one of them may be -1 and takes the devices that are left.

    slice: data parallelism between TPU slices, over the data-centre network.
    data: batch split, parameters copied.  fsdp: batch and parameters split.
    tensor: heads, feed-forward and vocabulary split.  sequence: text positions split.
    """

    slice: int = 1
    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1

    def sizes(self, devices: int) -> tuple[int, ...]:
        """Axis sizes for `devices` devices.

        Raises:
          ConfigError: more than one -1, or the sizes do not multiply to the number of devices.
        """
        sizes = [getattr(self, axis) for axis in AXES]
        if any(size == 0 or size < -1 for size in sizes):
            raise ConfigError(
                f"mesh axes must be positive, or -1 for the rest; got {dict(zip(AXES, sizes, strict=True))}"
            )
        if sizes.count(-1) > 1:
            raise ConfigError("only one mesh axis may be -1 (the devices that are left)")
        known = math.prod(size for size in sizes if size != -1)
        if -1 in sizes:
            if devices % known:
                raise ConfigError(f"{devices} devices cannot be split over mesh axes of {known}; change the mesh sizes")
            sizes[sizes.index(-1)] = devices // known
        elif known != devices:
            raise ConfigError(f"the mesh has {known} places but there are {devices} devices; set one axis to -1")
        return tuple(sizes)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """The mesh over `devices` (all devices by default), laid along the torus where there is one.

    Raises:
      ConfigError: the sizes do not fit the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = config.sizes(len(devices))
    if devices[0].platform == "tpu":
        grid = mesh_utils.create_device_mesh(sizes, devices=devices, allow_split_physical_axes=True)
    else:
        grid = np.asarray(devices).reshape(sizes)
    return jax.sharding.Mesh(grid, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES))
