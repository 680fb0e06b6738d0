"""Sending workers to run trials until a study has as many as it is to have, whatever goes wrong on the way."""

import time
from collections import Counter
from dataclasses import dataclass, field

from src.core.errors import UserError
from src.core.signals import StopSignal
from src.search.adapters import PendingAdapters
from src.search.pool import WorkerDied, WorkerPool
from src.search.study import Study
from src.search.worker import TrialResult
from src.training.failures import Failure

# As many failures for one cause in a row mean that the next trial would fail as well.
MOST_FAILURES = 3


# Settings that killed as many workers are not run again.
MOST_DEATHS = 3


_LOOK_EVERY_S = 0.5


@dataclass
class StudyRunner:
    """Runs trials of a study by a crew.

    `deadline_s`, as `time.time` counts, is when no trial is begun any more. `causes` are those of the failures in a
    row that came last.
    """

    study: Study
    crew: WorkerPool[TrialResult]
    shelf: PendingAdapters
    stop: StopSignal
    deadline_s: float | None = None
    causes: list[str] = field(default_factory=list)
    _deaths: Counter[str] = field(default_factory=Counter)

    def run(self, total: int) -> None:
        """Run trials until `total` are finished, or the time is over.

        Raises:
            StopRequested: a signal came; the trials that ran are queued again.
            UserError: trial after trial fails for the same cause, or the storage of studies stays away.
            RestartRequired: what the process needs to train is broken.
        """
        self.study.recover()
        try:
            while self._send(total):
                self.stop.check()
                self._hear(self.crew.next(_LOOK_EVERY_S))
        finally:
            self.crew.close()
            self.study.recover()

    def _send(self, total: int) -> bool:
        """Send workers for the trials that are missing; whether any is at work."""
        over = self.deadline_s is not None and time.time() >= self.deadline_s
        missing = 0 if over else self.study.remaining(total)
        if missing and not self.crew.busy:
            # Drawn by nobody: by a worker that lost its storage between drawing a trial and hearing of it.
            self.study.recover()
        while self.crew.busy < min(self.crew.size, missing):
            # Those at work that have not drawn yet, and the one that is sent now.
            self.study.enqueue_known_good(self.crew.busy - self.study.num_running() + 1)
            self.crew.begin()
        return self.crew.busy > 0

    def _hear(self, news: TrialResult | WorkerDied | None) -> None:
        if isinstance(news, TrialResult):
            self._end(news)
        elif isinstance(news, WorkerDied):
            self._replace(news)

    def _end(self, ended: TrialResult) -> None:
        if ended.adapter:
            # Before the study is told: a finished trial has its adapter, whatever dies meanwhile.
            self.shelf.put(ended.number, ended.adapter)
        if ended.state == "complete":
            self.study.tell(ended.number, *ended.values)
        elif ended.state == "pruned":
            self.study.prune(ended.number)
        else:
            self.study.fail(ended.number)
        self._count(ended.failure)
        if ended.failure and ended.failure.fatal:
            self.crew.replace(ended.worker)

    def _replace(self, lost: WorkerDied) -> None:
        for trial in self.study.running(lost.worker):
            self._deaths[str(trial.params)] += 1
            if self._deaths[str(trial.params)] >= MOST_DEATHS:
                self.study.fail(
                    trial.number, f"{MOST_DEATHS} workers died of it, for lack of memory perhaps: {lost.why}"
                )
        self.study.recover(lost.worker)
        self._count(Failure("a worker died", lost.why))

    def _count(self, failure: Failure | None) -> None:
        if failure is None:
            self.causes.clear()
            return
        self.causes = [*(cause for cause in self.causes if cause == failure.cause), failure.cause]
        if len(self.causes) >= MOST_FAILURES:
            cause = failure.cause if failure.cause == failure.reason else f"{failure.cause} ({failure.reason})"
            raise UserError(f"{MOST_FAILURES} trials in a row failed for the same cause: {cause}")
