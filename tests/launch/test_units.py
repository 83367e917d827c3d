"""Figures with their units."""

from hypothesis import given
from hypothesis import strategies as st

from launch.units import size


def test_sizes_have_three_digits_and_a_decimal_unit():
    given = {
        0: "0 B",
        999: "999 B",
        1000: "1 kB",
        361_200: "361 kB",
        999_600: "1 MB",
        65_536: "65.5 kB",
        2**34: "17.2 GB",
    }
    assert {count: size(count) for count in given} == given


@given(st.integers(0, 10**14))
def test_a_size_is_right_to_three_digits_and_never_in_powers_of_ten(count):
    number, unit = size(count).split()
    assert "e" not in number
    assert abs(float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit] - count) <= 0.0051 * count
