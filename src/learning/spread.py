"""How much a score spreads from seed to seed, and what so few seeds can say of its mean."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Some values in short.

    Attributes:
        mean: their mean.
        sd: their standard deviation, with n - 1 below; None for one value.
        n: how many they are.
        low, high: the 95% interval of the mean, by Student's t (Gosset, Biometrika 1908); None where the values are
            all alike or one alone, for then there is no spread to judge by.
    """

    mean: float
    sd: float | None
    n: int
    low: float | None = None
    high: float | None = None


def spread_of(values: Sequence[float]) -> Spread:
    """The spread of one value or more. For a gain give the differences of pairs that share a seed."""
    centre, n = mean(values), len(values)
    if n == 1:
        return Spread(centre, None, n)
    sd = stdev(values)
    if math.isclose(min(values), max(values), abs_tol=1e-9):
        return Spread(centre, sd, n)
    from scipy.stats import t

    low, high = t.interval(_CONFIDENCE, n - 1, centre, sd / math.sqrt(n))
    return Spread(centre, sd, n, float(low), float(high))
