"""The runner of a study: it sends workers until the wanted number of trials is finished."""

import math
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from src.core.errors import UserError
from src.core.signals import StopSignal
from src.search.adapters import PendingAdapters
from src.search.pool import WorkerDied, WorkerPool
from src.search.steering import SearchOrders, obey
from src.search.storage import StorageError
from src.search.study import Study
from src.search.trial import STOP_REQUEST
from src.search.worker import TrialResult
from src.training.failures import Failure

# After so many failures in a row with one cause, the next trial would fail as well.
MOST_FAILURES = 3
# Settings that killed so many workers are not run again.
MOST_DEATHS = 3
# Waiting is cut short this often, so that a signal or the deadline is noticed.
_WAIT_S = 0.5


@dataclass
class StudyRunner:
    """Runs trials of one study on a worker pool.

    The runner ends trials in the study and queues settings. Workers draw trials and report epochs. A trial that is
    RUNNING in the storage without a busy worker is therefore an interrupted one.
    """

    study: Study
    pool: WorkerPool[TrialResult]
    pending_adapters: PendingAdapters
    stop: StopSignal
    # No trial begins after this time (seconds, as `time.time` counts).
    deadline_s: float | None = None
    # The causes of the latest failures in a row, all equal. It is changed in place: a process that must be replaced
    # hands the list on.
    failure_causes: list[str] = field(default_factory=list)
    # The number of trials that a worker runs side by side.
    trials_at_once: int = 1
    # The number of interrupted trials that are run alone, because nobody knows which of them killed their worker.
    num_suspects: int = 0
    # Killed workers by the settings that they ran.
    _deaths: Counter[str] = field(default_factory=Counter)
    # When a worker's death last counted as a failure (seconds, as `time.monotonic` counts).
    _death_counted_s: float = -math.inf

    def run(self, total: int) -> int:
        """Run trials until `total` are finished, or the deadline has passed and no worker is busy.

        Requests of a person (src/search/steering.py) are obeyed before each trial begins.

        Returns:
            The total in the end, with the trials that a person added.

        Raises:
            StopRequested: a signal came; the settings of the running trials are queued again.
            UserError: trial after trial fails with one cause.
            StorageError: the storage does not answer.
            RestartRequired: this process cannot train any more.
        """
        # A killed runner left trials RUNNING. Nobody runs them now, because the caller holds the study's lock.
        self.study.recover()
        try:
            while self._submit_missing(orders := obey(self.study, total)):
                self.stop.check()
                result = self._wait()
                if isinstance(result, TrialResult):
                    self._finish(result)
                elif isinstance(result, WorkerDied):
                    self._handle_death(result)
        finally:
            # Also after an error: workers end first, so that no trial is recovered while it still runs.
            self.pool.close()
            # What a storage that is away cannot record now, the next run does.
            with suppress(StorageError):
                self.study.impatient().recover()
        return orders.total

    def _submit_missing(self, orders: SearchOrders) -> bool:
        """Submit tasks for missing trials. Return whether a worker is busy, or the search is paused."""
        is_over = self.deadline_s is not None and time.time() >= self.deadline_s
        # `remaining` counts finished trials only. So a failed trial is made up for by another one.
        missing = 0 if is_over else self.study.remaining(orders.total)
        self._withdraw_waiting(0 if orders.pause else missing)
        if missing and orders.pause:
            return True
        if missing and not self.pool.busy:
            # A worker that lost the storage right after `ask` left a RUNNING trial whose number nobody knows.
            self.study.recover()
        # At most `missing` trials run, so no trial is begun in vain.
        while self.pool.idle and self.pool.busy < missing:
            count = 1 if self.num_suspects else min(self.trials_at_once, missing - self.pool.busy)
            self.num_suspects = max(0, self.num_suspects - 1)
            # Busy workers that have not drawn yet take from the same queue as the worker that starts now.
            num_drawing = self.pool.busy - self.study.num_running() + count
            self.study.enqueue_initial_trials(num_drawing)
            self.pool.submit(count)
        return self.pool.busy > 0

    def _withdraw_waiting(self, missing: int) -> None:
        """Take tasks back from workers that wait for resources, if no trial may begin or others can run the tasks.

        A cluster with too few resources starts only some of the workers, and these hold what they have until the end.
        """
        count = 0
        if not missing:
            count = self.pool.busy
        elif self.pool.busy >= missing:
            count = self.pool.num_spare
        for worker in self.pool.withdraw(count) if count else ():
            # The worker may have been started, and have drawn a trial, at the last moment.
            self.study.recover(worker)

    def _wait(self) -> TrialResult | WorkerDied | None:
        if self.pool.busy:
            return self.pool.wait_any(_WAIT_S)
        time.sleep(_WAIT_S)
        return None

    def _finish(self, result: TrialResult) -> None:
        """End a trial in the study, after its adapter is on disk."""
        if result.adapter:
            # This order matters: if the process dies in between, the trial is run again. The other order would leave
            # a finished trial without an adapter.
            self.pending_adapters.put(result.number, result.adapter)
        if result.state == "complete":
            self.study.tell(result.number, *result.values)
        elif result.state == "pruned":
            self.study.prune(result.number)
        else:
            self.study.fail(result.number)
        self._check_failures(result.failure)
        if result.failure and result.failure.fatal:
            self.pool.replace(result.worker)
            # The trials that ran beside it have ended with the worker.
            self.study.recover(result.worker)

    def _handle_death(self, death: WorkerDied) -> None:
        """Queue the settings of a dead worker's trial again, unless they have killed too many workers."""
        running = self.study.running(death.worker)
        for trial in (trial for trial in running if STOP_REQUEST not in trial.attrs):
            settings = str(trial.params)
            self._deaths[settings] += 1
            if self._deaths[settings] >= MOST_DEATHS:
                reason = f"{MOST_DEATHS} workers died of these settings, perhaps for lack of memory: {death.reason}"
                self.study.fail(trial.number, reason)
        interrupted = self.study.recover(death.worker)
        if len(interrupted) > 1:
            self.num_suspects += len(interrupted)
        # Deaths of workers count as failures too: a node that kills every worker must end the search. Workers that die
        # together, with their node, count once.
        if death.started_s > self._death_counted_s:
            self._death_counted_s = time.monotonic()
            self._check_failures(Failure("a worker died", death.reason))

    def _check_failures(self, failure: Failure | None) -> None:
        """Raise `UserError` after `MOST_FAILURES` failures in a row with one cause."""
        if failure is None:
            self.failure_causes.clear()
            return
        if failure.cause not in self.failure_causes:
            self.failure_causes.clear()
        self.failure_causes.append(failure.cause)
        if len(self.failure_causes) >= MOST_FAILURES:
            cause = failure.cause if failure.cause == failure.reason else f"{failure.cause} ({failure.reason})"
            raise UserError(f"{MOST_FAILURES} trials in a row failed for the same cause: {cause}")
