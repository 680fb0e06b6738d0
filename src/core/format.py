"""Format scores, differences and intervals for tables, pages and messages. No negative zero is shown."""

from src.core.records import Interval

MINUS = "\N{MINUS SIGN}"


def percent(share: float) -> str:
    """Format a share as percent with one decimal: 0.7051 as "70.5%"."""
    return f"{100 * share:z.1f}%"


def round_percent(share: float) -> str:
    """Format a share that somebody has chosen, without needless decimals: 0.9 as "90%", 0.925 as "92.5%"."""
    return f"{100 * share:.6g}%"


def points(difference: float | None) -> str:
    """Format a difference of two shares in percentage points, with its sign: 0.031 as "+3.1". None is a dash."""
    return "-" if difference is None else f"{100 * difference:+z.1f}".replace("-", MINUS)


def percent_interval(interval: Interval) -> str:
    """Format a share with its interval: "70.5% (66.3% to 74.6%)"."""
    if interval.low is None or interval.high is None:
        return percent(interval.value)
    return f"{percent(interval.value)} ({percent(interval.low)} to {percent(interval.high)})"


def points_interval(interval: Interval) -> str:
    """Format a difference of two shares with its interval, in points: "+3.1 (-0.4 to +6.6)", with minus signs."""
    if interval.low is None or interval.high is None:
        return points(interval.value)
    return f"{points(interval.value)} ({points(interval.low)} to {points(interval.high)})"
