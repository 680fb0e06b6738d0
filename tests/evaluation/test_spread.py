import pytest

from src.core.estimates import Spread
from src.evaluation.intervals import spread_of


def test_the_interval_is_students() -> None:
    """By hand: mean 2, standard deviation 1, and 4.303 for 2 degrees of freedom (any table of t) times 1/√3."""
    found = spread_of([1.0, 2.0, 3.0])
    assert (found.mean, found.sd, found.n) == (2.0, 1.0, 3)
    assert found.low == pytest.approx(2 - 4.303 / 3**0.5, abs=1e-3)
    assert found.high == pytest.approx(2 + 4.303 / 3**0.5, abs=1e-3)


def test_more_values_of_the_same_spread_say_more() -> None:
    few, many = spread_of([0.1, 0.3]), spread_of([0.1, 0.3] * 8)
    assert few.low is not None and many.low is not None
    assert few.low < 0 < many.low


def test_one_value_has_no_spread() -> None:
    assert spread_of([0.5]) == Spread(0.5, None, 1)


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0], [0.7 - 0.6, 0.8 - 0.7, 0.9 - 0.8]])
def test_values_all_alike_but_for_rounding_have_no_interval(values: list[float]) -> None:
    found = spread_of(values)
    assert found.low is None and found.high is None
    assert found.sd == pytest.approx(0, abs=1e-9)
