"""A report of a split, for tests of stages that read one."""

from typing import Any

from src.core.data_outputs import SplitReport


def split_report(**changes: Any) -> SplitReport:
    """Return a report without posts; `changes` replace fields."""
    fields: dict[str, Any] = {
        "kind": "grouped",
        "protocol": "agreement",
        "seed": 7,
        "predefined": None,
        "data_digest": "d",
        "split_digest": "s",
        "parts": {"train": {}, "val": {}, "test": {}},
        "in_no_part": 0,
    }
    return SplitReport(**{**fields, **changes})
