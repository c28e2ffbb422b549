"""Lower bounds of a program's time on a chip: by its FLOPs, its HBM traffic, and what it sends to other chips.

The step takes at least the greatest of them. Each collective is timed by the torus dimensions that its mesh axes lie
along, since an axis uses the links of its own dimensions only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from mmjax.planning.hlo import Collective
from mmjax.planning.topology import Topology


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Seconds that a program takes at least, if nothing but the one thing took time."""

    compute: float
    hbm: float
    ici: float
    dcn: float

    @property
    def seconds(self) -> float:
        """The greatest of them: what no overlap of one with another can undercut."""
        return max(dataclasses.astuple(self))

    @property
    def binding(self) -> str:
        """Which one that is: "compute", "hbm", "ici" or "dcn"."""
        return max(dataclasses.asdict(self), key=lambda name: getattr(self, name))


def bounds(
    topology: Topology,
    axes: Mapping[str, Sequence[Sequence[int]]],
    *,
    flops: float,
    hbm_bytes: float,
    collectives: Sequence[Collective],
) -> Bounds:
    """Bounds of a program on one device of `topology`.

    axes: of each mesh axis, [torus dimension, places along it] of each dimension that it lies along.
    flops, hbm_bytes: of one device; collectives: as `program_facts` tells them.
    """
    chip = topology.chip
    within = sum(ici_seconds(topology, axes, one) for one in collectives if not one.between_slices)
    between = sum(dcn_seconds(topology, one) for one in collectives if one.between_slices)
    return Bounds(
        compute=flops * chip.devices / chip.peak_flops,
        hbm=hbm_bytes * chip.devices / chip.hbm_bandwidth,
        ici=within,
        dcn=between,
    )


def axis_bandwidth(topology: Topology, places: Mapping[int, int]) -> float:
    """Bytes a second, one way, that a device sends along the torus dimensions {dimension: places in use}.

    A whole ring sends both ways round; a line, or part of a ring, is bound by its one link in the middle. Devices of
    one chip share its links.
    """
    return sum(_links(topology, dimension, size) for dimension, size in places.items()) * _link_share(topology)


def ici_seconds(topology: Topology, axes: Mapping[str, Sequence[Sequence[int]]], one: Collective) -> float:
    """Seconds of all runs of a collective within a slice, at the full speed of its links."""
    places: dict[int, int] = {}
    for axis in one.axes:
        for dimension, size in axes[axis]:
            places[dimension] = places.get(dimension, 1) * size
    # Devices of one chip, or groups that follow no axis: as fast as all links together.
    bandwidth = axis_bandwidth(topology, places) or topology.chip.slices.ici_bandwidth / topology.chip.devices
    share = (one.size - 1) / max(one.size, 1)
    if one.kind == "collective-permute":
        # To one neighbour, over one link.
        seconds = 1 / (_link_share(topology) if places else bandwidth)
    elif one.kind in ("all-to-all", "ragged-all-to-all"):
        # On a ring of n every byte passes n/4 links on its way; one dimension is worked on beside the other.
        along = [size / 4 / axis_bandwidth(topology, {dimension: size}) for dimension, size in places.items()]
        seconds = max(along, default=share / bandwidth)
    else:
        sent = {"all-gather": share, "reduce-scatter": share, "all-reduce": 2 * share, "collective-broadcast": 1.0}
        seconds = sent[one.kind] / bandwidth
    return one.total_bytes * seconds


def _links(topology: Topology, dimension: int, size: int) -> int:
    return 2 if topology.wraps[dimension] and size == topology.shape[dimension] else 1


def _link_share(topology: Topology) -> float:
    """Bytes a second of one link, one way, that one device of its chip has."""
    return topology.chip.slices.link_bandwidth / topology.chip.devices


def dcn_seconds(topology: Topology, one: Collective) -> float:
    """Seconds of all runs of a collective between slices; the chips of a host share its network."""
    joined, slices = topology.chip.slices, max(one.size, 1)
    devices = joined.chips_per_host * topology.chip.devices
    share = (slices - 1) / slices
    sent = {"all-reduce": 2 * share, "all-gather": share, "reduce-scatter": share}.get(one.kind, 1.0)
    return one.total_bytes * sent * devices / joined.dcn_bandwidth
