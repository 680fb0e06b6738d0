import pytest

from src.core.format import percent, percent_interval, points, points_interval
from src.core.records import Interval


@pytest.mark.parametrize(
    ("difference", "shown"),
    [(0.0314, "+3.1"), (-0.0314, "−3.1"), (-0.0001, "+0.0"), (None, "-")],  # noqa: RUF001 # the sign that is shown
)
def test_points_carry_a_sign(difference: float | None, shown: str) -> None:
    assert points(difference) == shown


def test_percent_has_no_negative_zero() -> None:
    assert (percent(0.70514), percent(-0.0001)) == ("70.5%", "0.0%")


def test_intervals_follow_the_value() -> None:
    assert percent_interval(Interval(0.7, 0.66, 0.74)) == "70.0% (66.0% to 74.0%)"
    assert points_interval(Interval(0.031, -0.004, 0.066)) == "+3.1 (−0.4 to +6.6)"  # noqa: RUF001


def test_missing_bounds_leave_the_value_alone() -> None:
    assert percent_interval(Interval(0.7, None, None)) == "70.0%"
    assert points_interval(Interval(0.031, None, None)) == "+3.1"
