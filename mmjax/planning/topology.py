"""A slice of TPU chips by name (`v5p:8x8x16`), and its absent devices, for which the compiler can compile.

Nothing here needs libtpu but `Topology.devices`, which loads it; that belongs into a process of its own
(`mmjax.planning.compiler`), since libtpu takes hold of whatever accelerator there is.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import re
from typing import Any

import jax

from mmjax.core.config import nearest
from mmjax.core.errors import InputError
from mmjax.parallel.chips import CHIPS, Chip, Slices

_SHAPE = re.compile(r"\d+(x\d+)+")


@dataclasses.dataclass(frozen=True)
class Topology:
    """`slices` equal slices of `shape` chips, joined by the data-centre network."""

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def name(self) -> str:
        """The name of one slice, as `parse_topology` reads it."""
        return f"{self.chip.name}:{_spelled(self.shape)}"

    @property
    def chip_count(self) -> int:
        """Chips of all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def device_count(self) -> int:
        """Devices of all slices as JAX counts them."""
        return self.chip_count * self.chip.devices

    @property
    def host_count(self) -> int:
        """Hosts of all slices, one JAX process each."""
        return self.slices * max(1, math.prod(self.shape) // self.chip.slices.chips_per_host)

    @property
    def wraps(self) -> tuple[bool, ...]:
        """Which torus dimensions are rings."""
        return self.chip.slices.wraps(self.shape)

    def devices(self) -> list[Any]:
        """The absent devices, slice after slice. Loads libtpu.

        The compiler picks collectives by which dimensions are rings, and libtpu takes none to be one unless told.

        Raises:
          InputError: libtpu is not installed.
        """
        require_compiler()
        # Imported here: it is of use only where libtpu is.
        from jax.experimental import topologies

        joined = self.chip.slices
        options: dict[str, Any] = dict(joined.library_options)
        options["wrap"] = [*self.wraps, *[False] * (3 - len(self.shape))]
        if math.prod(self.shape) == 1:
            options["chips_per_host_bounds"] = [1, 1, 1]
        if self.slices > 1:
            options["num_slices"] = self.slices
        name = f"{joined.library_name}:{_spelled(self.shape)}"
        devices = topologies.get_topology_desc(name, "tpu", **options).devices
        return sorted(devices, key=lambda device: getattr(device, "slice_index", 0) or 0)


def larger(topology: Topology) -> list[Topology]:
    """Slices of the same chip with two, four and eight times the chips, as compact as they come."""
    shapes = _shapes(topology.chip.slices)
    found = []
    for times in (2, 4, 8):
        fitting = [shape for shape in shapes if math.prod(shape) == times * math.prod(topology.shape)]
        if fitting:
            found.append(dataclasses.replace(topology, shape=min(fitting, key=sum)))
    return found


def require_compiler() -> None:
    """Raises InputError where the TPU compiler is not installed. Does not load it."""
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "planning compiles with the TPU compiler, the package libtpu, which is not installed; "
            f"run `pip install mmjax[plan]` (it holds the version that JAX {jax.__version__} needs)"
        )


def parse_topology(text: str, slices: int = 1) -> Topology:
    """Reads `v5p:8x8x16`, or `v5e-256`: that many *chips*, in the shape with the smallest diameter.

    (Google Cloud counts TensorCores in `v4-` and `v5p-`, two a chip: its v5p-2048 is v5p:8x8x16 here.)

    Raises:
      InputError: no such chip, or no such slice of it; the message names the nearest that exists.
    """
    name, separator, size = text.partition(":") if ":" in text else text.partition("-")
    chip = CHIPS.get(name.removeprefix("tpu"))
    if chip is None or chip.slices is None:
        known = [key for key, value in CHIPS.items() if value.slices]
        raise InputError(f"{name!r} is not a TPU that can be planned for{nearest(name, known)}")
    if slices < 1:
        raise InputError(f"{slices} slices of {text} cannot be; give 1 or more")
    if separator == ":" and _SHAPE.fullmatch(size):
        shape = tuple(int(part) for part in size.split("x"))
        if shape not in _shapes(chip.slices):
            raise InputError(f"there is no slice {text}; the nearest is {chip.name}:{_spelled(_near(chip, shape))}")
        return Topology(chip, shape, slices)
    if separator == "-" and size.isdigit():
        return Topology(chip, _standard(chip, int(size)), slices)
    example = "8x8x16" if chip.slices.dimensions == 3 else "16x16"
    raise InputError(f"cannot read the topology {text!r}; write {name}:{example}, or {name}-256 for 256 chips")


def _spelled(shape):
    return "x".join(str(size) for size in shape)


def _shapes(joined: Slices) -> list[tuple[int, ...]]:
    """All slices that can be had, dimensions in rising order."""
    if joined.dimensions == 2:
        return list(joined.small)
    ring, largest = joined.ring, joined.largest
    cubes = [
        (a, b, c)
        for a in range(ring, math.isqrt(largest) + 1, ring)
        for b in range(a, math.isqrt(largest // a) + 1, ring)
        for c in range(b, largest // (a * b) + 1, ring)
    ]
    return [*joined.small, *cubes]


def _near(chip, shape):
    """The slice nearest in its sorted sides; where the number of sides differs, in its number of chips."""
    sides, count = tuple(sorted(shape)), math.prod(shape)

    def distance(other):
        ratio = abs(math.log(math.prod(other) / max(count, 1)))
        apart = sum(abs(math.log(a / max(b, 1))) for a, b in zip(sorted(other), sides, strict=False))
        return (apart if len(other) == len(sides) else ratio, ratio)

    return min(_shapes(chip.slices), key=distance)


def _standard(chip, count):
    shapes = _shapes(chip.slices)
    fitting = [shape for shape in shapes if math.prod(shape) == count]
    if not fitting:
        near = min(shapes, key=lambda shape: (abs(math.prod(shape) - count), sum(shape)))
        raise InputError(
            f"there is no slice of {count} {chip.name} chips; the nearest is {chip.name}-{math.prod(near)} "
            f"({chip.name}:{_spelled(near)})"
        )
    return min(fitting, key=sum)
