"""Lengths of time as people write them."""

import re

from src.core.errors import UsageRefusal

_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_FORM = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+")


def seconds_of(text: str) -> float:
    """Seconds of a length of time such as 6h, 90m or 1h30m.

    Raises:
        UsageRefusal: it is none.
    """
    if not _FORM.fullmatch(text):
        raise UsageRefusal(f"{text!r} is no length of time: write 6h, 90m, 1h30m or 45s")
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(r"([\d.]+)([dhms])", text))
