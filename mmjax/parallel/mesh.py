"""The device mesh: five named axes, of which any may have size 1, and how parameters are spread over them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np
from jax.experimental import mesh_utils

from mmjax.core.errors import ConfigError

AXES = ("slice", "data", "fsdp", "tensor", "sequence")

Strategy = Literal["hybrid", "full", "global"]


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one of them may be -1 and takes the devices that are left.

    slice: data parallelism between TPU slices, over the data-centre network.
    data: batch split.  fsdp: batch and parameters split.
    tensor: heads, feed-forward and vocabulary split.  sequence: text positions and pictures split.

    strategy: over which axes parameters and optimizer state are spread (each layer's are gathered when it runs).
      "hybrid": fsdp and tensor; copies along the other axes (HSDP; with fsdp 1, plain data parallelism).
      "full": every axis of a slice, one copy a slice: FSDP that may lie along several dimensions of a torus, e.g.
        data 16 x fsdp 16 on a square of 256 chips.
      "global": the slices too, one copy in all.
    """

    slice: int = 1
    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1
    strategy: Strategy = "hybrid"

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
    """The mesh over `devices` (all devices by default), laid along the torus of each TPU slice where there is one.

    Raises:
      ConfigError: the sizes do not fit the number of devices, or the slice axis the number of slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = config.sizes(len(devices))
    on_tpu = devices[0].platform == "tpu"
    grid = _on_torus(sizes, devices) if on_tpu else np.asarray(devices).reshape(sizes)
    return jax.sharding.Mesh(grid, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES))


def _on_torus(sizes: tuple[int, ...], devices: list[jax.Device]) -> np.ndarray:
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices=devices, allow_split_physical_axes=True)
    # The slow network lies between slices: their axis, or the outer part of the data axis, runs over it.
    across = [1] * len(sizes)
    for place, size in enumerate(sizes[:2]):
        across[place] = math.gcd(size, slices // math.prod(across))
    if math.prod(across) != slices:
        raise ConfigError(f"there are {slices} TPU slices: set the mesh axis slice (or data) to a multiple of {slices}")
    inside = [size // outer for size, outer in zip(sizes, across, strict=True)]
    return mesh_utils.create_hybrid_device_mesh(
        inside, across, devices=devices, allow_split_physical_axes=True, process_is_granule=False
    )
