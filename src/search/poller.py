"""Showing a study while it runs: its storage is looked at every now and then, and what has changed is shown."""

import logging
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from src.core.errors import UserError
from src.search.trial import TrialRecord

TrialListener = Callable[[TrialRecord], None]
_LOOK_EVERY_S = 0.5
_log = logging.getLogger(__name__)


class StudyPoller:
    """Passes every trial that has changed to the views, in a thread of its own and once more when the context ends.

    Whoever runs trials waits for no screen and no server: the storage is the truth, and views may lag. A view that
    fails is not shown to any more; its error is raised when the context ends, unless another one ends it.
    """

    def __init__(self, trials: Callable[[], list[TrialRecord]], views: Sequence[TrialListener]) -> None:
        self._trials = trials
        self._views = views
        self._seen: dict[int, TrialRecord] = {}
        self._failure: Exception | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        if self._failure is None:
            self._look()
        elif error is None:
            raise self._failure

    def _follow(self) -> None:
        try:
            while not self._done.wait(_LOOK_EVERY_S):
                self._look()
        except Exception as error:  # noqa: BLE001 # an error in a thread is seen by nobody
            self._failure = error

    def _look(self) -> None:
        try:
            trials = self._trials()
        except UserError as refusal:
            # The process that runs trials meets the same and says so.
            _log.debug("%s", refusal)
            return
        for trial in trials:
            if self._seen.get(trial.number) != trial:
                self._seen[trial.number] = trial
                for view in self._views:
                    view(trial)
