import pytest

from src.core.estimates import Spread
from src.evaluation.intervals import spread_of


def test_the_interval_is_students() -> None:
    """By hand: mean 2, standard deviation 1, and 4.303 for 2 degrees of freedom (any table of t) times 1/√3."""
    spread = spread_of([1.0, 2.0, 3.0])
    assert (spread.mean, spread.sd, spread.n) == (2.0, 1.0, 3)
    assert spread.low == pytest.approx(2 - 4.303 / 3**0.5, abs=1e-3)
    assert spread.high == pytest.approx(2 + 4.303 / 3**0.5, abs=1e-3)


def test_more_values_narrow_the_interval() -> None:
    few, many = spread_of([0.1, 0.3]), spread_of([0.1, 0.3] * 8)
    assert few.low is not None and many.low is not None
    assert few.low < 0 < many.low


def test_one_value_has_no_spread() -> None:
    assert spread_of([0.5]) == Spread(0.5, None, 1)


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0], [0.7 - 0.6, 0.8 - 0.7, 0.9 - 0.8]])
def test_equal_values_have_no_interval(values: list[float]) -> None:
    spread = spread_of(values)
    assert spread.low is None and spread.high is None
    assert spread.sd == pytest.approx(0, abs=1e-9)
