"""Bounds of time by hand: which links a mesh axis has, and what each kind of collective sends over them."""

import dataclasses
import math

import pytest

from mmjax.parallel.chips import CHIPS
from mmjax.planning.hlo import Collective
from mmjax.planning.roofline import Bounds, axis_bandwidth, bounds, dcn_seconds, ici_seconds
from mmjax.planning.topology import parse_topology

GB = 10**9
V5E, V5P = parse_topology("v5e:16x16"), parse_topology("v5p:4x4x8")
# One way: a link of v5e has 50 GB/s, one of v5p and 7x 100 GB/s.
V5E_LINK, V5P_LINK, LINK_7X = 50 * GB, 100 * GB, 100 * GB
SQUARE = {"data": [[0, 16]], "fsdp": [[1, 16]], "tensor": []}


def collective(kind, axes, size, *, times=1, gigabytes=1, **further):
    return Collective("c", kind, gigabytes * GB, axes, size, times, 0, "", **further)


def test_links_of_an_axis():
    assert axis_bandwidth(V5E, {0: 16}) == 2 * V5E_LINK, "a ring sends both ways round"
    assert axis_bandwidth(V5E, {0: 8}) == V5E_LINK, "part of a ring is a line"
    assert axis_bandwidth(V5E, {0: 16, 1: 16}) == 4 * V5E_LINK
    assert axis_bandwidth(parse_topology("v5e:4x4"), {0: 4}) == V5E_LINK, "only 16 chips are closed to a ring"
    assert axis_bandwidth(V5P, {0: 4, 2: 8}) == 4 * V5P_LINK, "cubes are closed in every dimension"
    assert axis_bandwidth(parse_topology("7x:4x4x4"), {0: 4}) == LINK_7X, "two devices share a chip's links"


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        # Of 1 GB that a device ends or begins with, the 15/16 of the others pass its links.
        ("all-gather", 15 / 16 / (2 * 50)),
        ("reduce-scatter", 15 / 16 / (2 * 50)),
        ("all-reduce", 2 * 15 / 16 / (2 * 50)),
        # Every byte passes 4 of 32 links on its way; 16 devices send one GB each: 16 * 4 / 32 GB over each link.
        ("all-to-all", 2 / 50),
        # To a neighbour, over one link.
        ("collective-permute", 1 / 50),
        ("collective-broadcast", 1 / (2 * 50)),
    ],
)
def test_one_ring(kind, seconds):
    assert ici_seconds(V5E, SQUARE, collective(kind, ("fsdp",), 16)) == pytest.approx(seconds)
    five = collective(kind, ("fsdp",), 16, times=5, gigabytes=2)
    assert ici_seconds(V5E, SQUARE, five) == pytest.approx(10 * seconds)


def test_two_dimensions_carry_twice_as_much():
    gather = collective("all-gather", ("data", "fsdp"), 256)
    assert ici_seconds(V5E, SQUARE, gather) == pytest.approx(255 / 256 / (4 * 50))
    # One axis over both dimensions is the same, and two axes that share a dimension are one ring.
    assert ici_seconds(V5E, {"fsdp": [[0, 16], [1, 16]]}, collective("all-gather", ("fsdp",), 256)) == ici_seconds(
        V5E, SQUARE, gather
    )
    shared = {"fsdp": [[0, 4]], "tensor": [[0, 4]]}
    assert ici_seconds(V5E, shared, collective("all-gather", ("fsdp", "tensor"), 16)) == pytest.approx(15 / 16 / 100)
    # First along one dimension, then along the other: each has its own links.
    exchange = collective("all-to-all", ("data", "fsdp"), 256)
    assert ici_seconds(V5E, SQUARE, exchange) == pytest.approx(2 / 50)
    permute = collective("collective-permute", ("data", "fsdp"), 256)
    assert ici_seconds(V5E, SQUARE, permute) == pytest.approx(1 / 50)


def test_what_no_torus_dimension_tells():
    """Groups that follow no mesh axis are bound by all links of a chip together."""
    assert ici_seconds(V5E, SQUARE, collective("all-gather", (), 4)) == pytest.approx(3 / 4 / (4 * 50))
    assert ici_seconds(V5E, SQUARE, collective("collective-permute", (), 4)) == pytest.approx(1 / (4 * 50))
    assert ici_seconds(V5E, SQUARE, collective("all-to-all", (), 4)) == pytest.approx(3 / 4 / (4 * 50))


def test_a_chip_of_two_devices():
    """Both devices of a 7x chip send over its links at the same time."""
    place = parse_topology("7x:4x4x4")
    axes = {"fsdp": [[2, 4]], "data": [[0, 4], [1, 4]], "tensor": []}
    assert ici_seconds(place, axes, collective("all-gather", ("fsdp",), 4)) == pytest.approx(3 / 4 / 100)
    assert ici_seconds(place, axes, collective("collective-permute", ("fsdp",), 4)) == pytest.approx(1 / 50)
    limits = bounds(place, axes, flops=1e12, hbm_bytes=GB, collectives=())
    assert limits.compute == pytest.approx(1e12 / (2307e12 / 2))
    assert limits.hbm == pytest.approx(1 / (7380 / 2))


@pytest.mark.parametrize(
    ("kind", "sent"), [("all-reduce", 1), ("all-gather", 1 / 2), ("reduce-scatter", 1 / 2), ("collective-permute", 1)]
)
def test_between_slices_the_chips_of_a_host_share_its_network(kind, sent):
    place = parse_topology("v5p:4x4x8", 2)
    between = collective(kind, ("slice",), 2, between_slices=True)
    assert dcn_seconds(place, between) == pytest.approx(sent * 4 / 25)
    limits = bounds(place, {"slice": []}, flops=0, hbm_bytes=0, collectives=[between, between])
    assert (limits.ici, limits.dcn) == (0, pytest.approx(2 * sent * 4 / 25))


def test_four_slices_send_more_than_two():
    between = collective("all-reduce", ("slice",), 4, between_slices=True)
    assert dcn_seconds(parse_topology("v5p:4x4x8", 4), between) == pytest.approx(2 * 3 / 4 * 4 / 25)


def test_the_greatest_bound_binds():
    gather = collective("all-gather", ("fsdp",), 16)
    limits = bounds(V5E, SQUARE, flops=197e12, hbm_bytes=819 * GB // 2, collectives=[gather, gather])
    assert dataclasses.asdict(limits) == pytest.approx({"compute": 1, "hbm": 0.5, "ici": 2 * 15 / 1600, "dcn": 0})
    assert (limits.seconds, limits.binding) == (1, "compute")
    assert Bounds(0.1, 0.2, 0.5, 0.4).binding == "ici"
    assert Bounds(0.1, 0.2, 0.3, 0.4).seconds == 0.4


@pytest.mark.parametrize("name", [name for name, chip in CHIPS.items() if chip.slices])
def test_no_kind_of_collective_is_free_or_endless(name):
    place = parse_topology(f"{name}:{'4x4x4' if CHIPS[name].slices.dimensions == 3 else '4x4'}")
    axes = {"fsdp": [[0, 4]]}
    for kind in ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "ragged-all-to-all", "collective-permute"):
        seconds = ici_seconds(place, axes, collective(kind, ("fsdp",), 4))
        assert 0 < seconds < 1 and math.isfinite(seconds)
