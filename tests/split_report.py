"""A report of a split, for tests of stages that read one."""

from typing import Any

from src.core.data_outputs import SplitReport
from src.core.labels import TONES
from src.core.records import PARTS


def split_report(**changes: Any) -> SplitReport:
    """Return a report without posts; `changes` replace fields."""
    fields: dict[str, Any] = {
        "kind": "grouped",
        "protocol": "agreement",
        "seed": 7,
        "predefined": None,
        "data_digest": "d",
        "split_digest": "s",
        "parts": {part: dict.fromkeys(TONES, 0) for part in PARTS},
        "in_no_part": 0,
        "unimodal": 0,
    }
    return SplitReport(**{**fields, **changes})
