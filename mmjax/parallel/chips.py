"""Accelerator chips: nominal peaks, memory, links, and which slices of them exist.

Sources. Peaks, memory and links: the pages of each TPU generation at docs.cloud.google.com/tpu/docs (v4, v5e, v5p,
v6e, tpu7x) and NVIDIA's data sheets (dense bfloat16, SXM). The pages give links in both directions together; here one
direction stands. "How to Scale Your Model" (jax-ml.github.io/scaling-book) has 45 GB/s a link where they say 50, and 90
where they say 100. Usable memory: what the compiler of libtpu 0.0.42 and 0.0.50 calls available, the lower of the two.
Clocks: those that give the published peak from the size of the matrix units (v4, v5e, v5p); that of v6e is not so
confirmed. Wraparound: the book, chapter on TPUs.
"""

from __future__ import annotations

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Slices:
    """How chips of a TPU generation are joined, and how libtpu names them. Bandwidths are bytes per second, one way.

    link_bandwidth: of one link; a chip has two links for every torus dimension.
    dcn_bandwidth: from one host to the data-centre network.
    hosts are counted as JAX's processes: `chips_per_host` chips each in a slice of several hosts.
    usable_hbm_bytes: what one *device* has for programs, by the compiler.
    small: shapes below `cube` chips a side; larger ones are multiples of the cube, of at most `largest` chips.
    For two dimensions `small` is complete, and a dimension wraps around where it is `ring` long.
    """

    library_name: str
    dimensions: int
    link_bandwidth: float
    dcn_bandwidth: float
    usable_hbm_bytes: int
    small: tuple[tuple[int, ...], ...]
    largest: int
    ring: int
    chips_per_host: int = 4
    library_options: tuple[tuple[str, str], ...] = ()

    @property
    def links(self) -> int:
        """Links of a chip to its neighbours."""
        return 2 * self.dimensions

    @property
    def ici_bandwidth(self) -> float:
        """Bytes per second that a chip sends over all its links."""
        return self.links * self.link_bandwidth

    def wraps(self, shape: tuple[int, ...]) -> tuple[bool, ...]:
        """Which dimensions of a slice are rings.

        Rectangles (v5e, v6e) close where they span the whole pod, 16 chips; slices made of cubes (v4, v5p, 7x) are
        closed by optical switches in every dimension, and parts of a cube in none.
        """
        if self.dimensions == 2:
            return tuple(size == self.ring for size in shape)
        return (all(size % self.ring == 0 for size in shape),) * len(shape)


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip as it is sold. `devices` is how many devices JAX counts in it; per device, divide by it.

    kinds: what `jax.Device.device_kind` begins with.
    peak_flops: dense bfloat16 FLOP/s.  clock_hertz: None where it is not published.
    """

    name: str
    kinds: tuple[str, ...]
    peak_flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    devices: int = 1
    clock_hertz: float | None = None
    slices: Slices | None = None


_RECTANGLES = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_PARTS_OF_A_CUBE = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))

CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            kinds=("TPU v4",),
            peak_flops=275e12,
            hbm_bytes=32 * GIB,
            hbm_bandwidth=1200e9,
            clock_hertz=1.05e9,
            slices=Slices(
                library_name="v4",
                dimensions=3,
                link_bandwidth=45e9,
                dcn_bandwidth=25e9,
                usable_hbm_bytes=int(30.75 * GIB),
                small=_PARTS_OF_A_CUBE,
                largest=4096,
                ring=4,
                # The two cores of a chip as one device; libtpu's own default is one device a core.
                library_options=(("chip_config_name", "megacore"),),
            ),
        ),
        Chip(
            name="v5e",
            kinds=("TPU v5 lite", "TPU v5e"),
            peak_flops=197e12,
            hbm_bytes=16 * GIB,
            hbm_bandwidth=819e9,
            clock_hertz=1.5e9,
            slices=Slices(
                library_name="v5e",
                dimensions=2,
                link_bandwidth=50e9,
                dcn_bandwidth=12.5e9,
                usable_hbm_bytes=int(15.75 * GIB),
                small=_RECTANGLES,
                largest=256,
                ring=16,
            ),
        ),
        Chip(
            name="v5p",
            kinds=("TPU v5", "TPU v5p"),
            peak_flops=459e12,
            hbm_bytes=95 * GIB,
            hbm_bandwidth=2765e9,
            clock_hertz=1.75e9,
            slices=Slices(
                library_name="v5p",
                dimensions=3,
                link_bandwidth=100e9,
                dcn_bandwidth=25e9,
                usable_hbm_bytes=int(95.73 * GIB),
                small=_PARTS_OF_A_CUBE,
                largest=6144,
                ring=4,
            ),
        ),
        Chip(
            name="v6e",
            kinds=("TPU v6 lite", "TPU v6e"),
            peak_flops=918e12,
            hbm_bytes=32 * GIB,
            hbm_bandwidth=1638e9,
            clock_hertz=1.75e9,
            slices=Slices(
                library_name="v6e",
                dimensions=2,
                link_bandwidth=100e9,
                dcn_bandwidth=50e9,
                usable_hbm_bytes=int(31.24 * GIB),
                small=_RECTANGLES,
                largest=256,
                ring=16,
            ),
        ),
        Chip(
            name="7x",
            kinds=("TPU7x", "TPU v7x"),
            peak_flops=2307e12,
            hbm_bytes=192 * GIB,
            hbm_bandwidth=7380e9,
            devices=2,
            slices=Slices(
                library_name="tpu7x",
                dimensions=3,
                link_bandwidth=100e9,
                dcn_bandwidth=50e9,
                usable_hbm_bytes=int(94.74 * GIB),
                small=_PARTS_OF_A_CUBE,
                largest=9216,
                ring=4,
            ),
        ),
        Chip("A100", ("NVIDIA A100",), 312e12, 80 * 10**9, 2039e9),
        Chip("H100", ("NVIDIA H100",), 989e12, 80 * 10**9, 3350e9),
        Chip("H200", ("NVIDIA H200",), 989e12, 141 * 10**9, 4800e9),
    )
}


def chip_of(device_kind: str) -> Chip | None:
    """The chip that a device belongs to, by the longest name that its kind starts with; None for any CPU."""
    names = {kind: chip for chip in CHIPS.values() for kind in chip.kinds if device_kind.startswith(kind)}
    return names[max(names, key=len)] if names else None


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of one device as JAX counts them (a 7x chip is two); None where it is not known."""
    chip = chip_of(device_kind)
    return chip.peak_flops / chip.devices if chip else None
