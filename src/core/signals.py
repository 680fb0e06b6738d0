"""A signal handler that ends long work at its next step, and not in the middle of a write."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self

from src.core.errors import StopRequested

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """A context that records SIGINT and SIGTERM, so that `check` can raise. A second signal ends the process at once.

    Use it in the main thread, because Python runs signal handlers there.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._previous_handlers = {number: signal.signal(number, self._record) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise `StopRequested` if a signal was received."""
        if self._received is not None:
            raise StopRequested(f"stopped by {signal.Signals(self._received).name}", 128 + self._received)

    def _record(self, number: int, _: FrameType | None) -> None:
        self._received = number
        for signal_number in _SIGNALS:
            signal.signal(signal_number, signal.SIG_DFL)
