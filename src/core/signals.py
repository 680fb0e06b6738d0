"""Ending long work on SIGINT and SIGTERM at the next step, and not in the middle of a write."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self

from src.core.errors import StopRequested

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """Notes a signal to end, for `check` to act upon; a second one ends the process as if there were no notes.

    To be used as a context, in the main thread.
    """

    def __init__(self) -> None:
        self._by: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise `StopRequested` if a signal has come."""
        if self._by is not None:
            raise StopRequested(f"stopped by {signal.Signals(self._by).name}", 128 + self._by)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._by = number
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
