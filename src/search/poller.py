"""Polling of a running study: a thread reads its storage and passes changed trials to listeners."""

import logging
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from src.core.errors import UserError
from src.search.steering import StudyRequest
from src.search.trial import TrialRecord

TrialListener = Callable[[TrialRecord], None]
RequestListener = Callable[[Sequence[StudyRequest]], None]
_POLL_EVERY_S = 0.5
_log = logging.getLogger(__name__)


class StudyPoller:
    """A thread that passes every changed trial to the listeners, and once more when the context ends.

    The runner must not wait for a screen or a server. The storage is the truth, so listeners may lag behind it.
    If a listener fails, polling ends. The context then raises the listener's error, unless another error ends it.

    Args:
        read_trials: returns all trials; `UserError` means that the storage does not answer now.
        listeners: are called in the thread, with one changed trial at a time.
        read_requests: returns all requests about the search, like `read_trials`.
        request_listeners: are called in the thread, with all requests after there is a new one.
    """

    def __init__(
        self,
        read_trials: Callable[[], list[TrialRecord]],
        listeners: Sequence[TrialListener],
        read_requests: Callable[[], Sequence[StudyRequest]] = tuple,
        request_listeners: Sequence[RequestListener] = (),
    ) -> None:
        self._read_trials = read_trials
        self._listeners = listeners
        self._read_requests = read_requests
        self._request_listeners = request_listeners
        self._num_requests = 0
        self._seen: dict[int, TrialRecord] = {}
        self._error: Exception | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="study-poller", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        if self._error is None:
            # The last trials may have ended after the thread's last poll.
            self._poll()
        elif error is None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._done.wait(_POLL_EVERY_S):
                self._poll()
        except Exception as error:  # noqa: BLE001 # an error in a thread would be lost: __exit__ raises it
            self._error = error

    def _poll(self) -> None:
        try:
            requests = self._read_requests()
            trials = self._read_trials()
        except UserError as error:
            # The runner meets the same error and reports it.
            _log.debug("%s", error)
            return
        if len(requests) > self._num_requests:
            self._num_requests = len(requests)
            for show_requests in self._request_listeners:
                show_requests(requests)
        for trial in trials:
            if self._seen.get(trial.number) != trial:
                self._seen[trial.number] = trial
                for listener in self._listeners:
                    listener(trial)
