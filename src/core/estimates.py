"""What is estimated of how good predictions are, as those who compute it and those who show it both know it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A value and its 95% interval; `low` and `high` are None where all groups say the same: no spread to judge by."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Bin:
    """The posts whose confidence lies above `low` and not above `high`: how sure of them, and how often right.

    `confidence` (the mean) and `accuracy` are None where there is no post.
    """

    low: float
    high: float
    posts: int
    confidence: float | None
    accuracy: float | None
