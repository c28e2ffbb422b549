import pytest

from mmjax.core.quantities import quantity, seconds_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (999.4, "999 B"),
        (999.6, "1.00 kB"),
        (1e6, "1 MB"),
        (3_462_492_672, "3.46 GB"),
        (16_911_433_728, "16.9 GB"),
        (102_789_304_811, "103 GB"),
        (9.996e9, "10.0 GB"),
        (-2e9, "-2 GB"),
        (4.2e21, "4200 EB"),
        (0.25, "0.25 B"),
    ],
)
def test_three_digits_and_a_decimal_prefix(value, text):
    assert quantity(value, "B") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (1.2602, "1.26 s"),
        (12.34, "12.3 s"),
        (3661.4, "3,661 s"),
        (0.0624, "62.4 ms"),
        (0.9996, "1.00 s"),
        (4.78e-6, "4.78 µs"),
        (4e-10, "0.40 ns"),
    ],
)
def test_times_take_the_unit_that_fits(seconds, text):
    assert seconds_text(seconds) == text
