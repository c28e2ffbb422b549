"""The table of chips: names of devices, and what must agree between its columns."""

import pytest

from mmjax.parallel.chips import CHIPS, GIB, chip_of, peak_flops


@pytest.mark.parametrize(
    ("kind", "name", "peak"),
    [
        ("TPU v4", "v4", 275e12),
        ("TPU v5 lite", "v5e", 197e12),
        ("TPU v5", "v5p", 459e12),
        ("TPU v5p", "v5p", 459e12),
        ("TPU v6 lite", "v6e", 918e12),
        ("TPU7x", "7x", 1153.5e12),
        ("NVIDIA H100 80GB HBM3", "H100", 989e12),
        ("NVIDIA H200", "H200", 989e12),
        ("NVIDIA A100-SXM4-40GB", "A100", 312e12),
    ],
)
def test_a_device_is_known_by_the_longest_name(kind, name, peak):
    assert chip_of(kind).name == name
    assert peak_flops(kind) == peak


def test_any_other_device_has_no_peak():
    assert chip_of("cpu") is None
    assert peak_flops("cpu") is None


def test_columns_agree():
    for name, chip in CHIPS.items():
        assert chip.name == name
        if chip.slices is None:
            continue
        assert 0.9 * chip.hbm_bytes < chip.slices.usable_hbm_bytes * chip.devices < chip.hbm_bytes + GIB
        # FLOP per byte of the memory, as the published tables of rooflines have it: 160 to 560.
        assert 160 < chip.peak_flops / chip.hbm_bandwidth < 570
        assert chip.slices.ici_bandwidth * 2 == pytest.approx(
            {"v4": 540e9, "v5e": 400e9, "v6e": 800e9}.get(name, 1200e9)
        )


def test_published_peaks_follow_from_the_matrix_units():
    # TensorCores x matrix units x 128 x 128 multiply-adds a cycle.
    for name, units in (("v4", 8), ("v5e", 4), ("v5p", 8)):
        assert CHIPS[name].clock_hertz * units * 128 * 128 * 2 == pytest.approx(CHIPS[name].peak_flops, rel=3e-3)


def test_where_a_slice_closes_to_a_ring():
    assert CHIPS["v5e"].slices.wraps((8, 16)) == (False, True)
    assert CHIPS["v6e"].slices.wraps((16, 16)) == (True, True)
    assert CHIPS["v5p"].slices.wraps((4, 8, 8)) == (True, True, True)
    assert CHIPS["v4"].slices.wraps((2, 4, 4)) == (False, False, False)
