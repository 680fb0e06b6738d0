"""Studies in Optuna's storage. The storage is the truth about a search, and MLflow can be rebuilt from it."""

import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from src.core.config import Objective
from src.core.errors import UsageError, UserError
from src.core.training_config import Setting
from src.search.plan import StudyPlan
from src.search.space import checked
from src.search.storage import RetryPolicy, open_storage
from src.search.trial import (
    ENDED,
    EPOCH,
    FITS,
    INTERRUPTED,
    OUTCOME,
    REQUEST,
    RETRY,
    STOP_REQUEST,
    TrialRecord,
    drawn,
    is_retry,
    record_of,
    settings_error,
)

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

# User attributes of a study.
_IDENTITY = "identity"
_CONFIG = "config"
_DIRECTIONS: Mapping[Objective, Literal["maximize", "minimize"]] = {"macro_f1": "maximize", "parameters": "minimize"}


# Settings with the user attributes of the trial that will run them.
QueuedTrial = tuple[dict[str, Setting], dict[str, str]]


@dataclass(frozen=True)
class RunningTrial:
    """A trial that a worker runs: its settings, and the methods that report its progress.

    All methods wait for a storage that does not answer, and raise `UserError` if it stays away.
    """

    number: int
    params: dict[str, Setting]
    _trial: "Trial"
    _retry: RetryPolicy
    _prunes: bool
    _is_stop_requested: Callable[[], bool]

    def report(self, epoch: int, metrics: Mapping[str, float], *, last: bool = False) -> bool:
        """Report the metrics of an epoch, counted from 1. `val_macro_f1` must be among them.

        Returns:
            Whether the trial should go on: neither the pruner nor a person ends it. It always should after the `last`
            epoch, because nothing would be saved.
        """
        row = {name: value for name, value in metrics.items() if name != "epoch"}
        row["at_ms"] = round(time.time() * 1e3)
        self.set_attr(f"{EPOCH}{epoch}", row)
        if self._prunes:
            self._retry(lambda: self._trial.report(metrics["val_macro_f1"], epoch))
        if last:
            return True
        return not (self._prunes and self._retry(self._trial.should_prune)) and not self.is_stop_requested()

    def is_stop_requested(self) -> bool:
        """Return whether a person asked to stop the trial; False if the storage does not answer now."""
        try:
            return self._is_stop_requested()
        except UserError:
            return False

    def set_attr(self, key: str, value: Any) -> None:
        """Record an attribute that JSON can hold. `TrialRecord.attrs` returns it."""
        self._retry(lambda: self._trial.set_user_attr(key, value))

    def set_outcome(self, outcome: Mapping[str, Any]) -> None:
        """Record the results of the best epoch. `TrialRecord.outcome` returns them."""
        self.set_attr(OUTCOME, dict(outcome))

    def set_failure(self, cause: str, reason: str, *, unfit: bool) -> None:
        """Record why the trial failed. The sampler avoids settings near `unfit` ones."""
        self.set_attr("cause", cause)
        self.set_attr("reason", reason)
        if unfit:
            self._retry(lambda: self._trial.set_constraint(FITS, 1.0))


class Study:
    """One study. `ask` draws a trial; `tell`, `prune` or `fail` end it. `open_study` makes it.

    All methods wait for a storage that does not answer, and raise `UserError` if it stays away.

    Interrupted trials are found by `recover` and not by Optuna's heartbeat (`RetryHeartbeatStaleTrialCallback`). The
    heartbeat is sent by `study.optimize` alone and not by `ask`, and Optuna's gRPC proxy has none. It notices a dead
    worker only after a grace period, while the runner knows at once. A retry must also keep the place of the trial that
    it replaces (`SeededByTrialSampler`).
    """

    def __init__(
        self,
        study: "optuna.Study",
        storage: "BaseStorage",
        plan: StudyPlan,
        retry: RetryPolicy,
        ended: dict[int, TrialRecord] | None = None,
    ) -> None:
        self.raw = study
        self.plan = plan
        self._storage = storage
        self._retry = retry
        self._initial_trials: list[QueuedTrial] = [(checked(plan.space, each), {}) for each in plan.initial_trials]
        # Ended trials do not change, so their records are made once. Polling would otherwise slow down as trials end.
        self._ended: dict[int, TrialRecord] = {} if ended is None else ended

    @property
    def name(self) -> str:
        """The study's name in the storage."""
        return self.plan.name

    @property
    def identity(self) -> str:
        """An id that differs between two studies of the same name, such as before and after the storage was lost."""
        return str(self.attrs()[_IDENTITY])

    def trials(self) -> list[TrialRecord]:
        """Return all trials in the order of their numbers."""
        return [self._ended.get(trial.number) or self._record(trial) for trial in self._frozen_trials()]

    def try_trials(self) -> list[TrialRecord]:
        """Return all trials like `trials`, but fail at once if the storage does not answer."""
        return self.impatient().trials()

    def impatient(self) -> "Study":
        """Return this study with methods that fail at once if the storage does not answer."""
        return Study(self.raw, self._storage, self.plan, self._retry.once(), self._ended)

    def interrupt_waits_by(self, check: Callable[[], None]) -> None:
        """Call `check`, which may raise `StopRequested`, before each pause while the storage does not answer."""
        self._retry = replace(self._retry, check=check)

    def attrs(self) -> Mapping[str, Any]:
        """Return the attributes of the study."""
        return self._retry(lambda: self.raw.user_attrs)

    def set_attr(self, key: str, value: Any) -> None:
        """Record an attribute of the study that JSON can hold."""
        self._retry(lambda: self.raw.set_user_attr(key, value))

    def finished(self) -> list[TrialRecord]:
        """Return the trials that count against the budget (complete or pruned), in the order of their numbers."""
        return [trial for trial in self.trials() if trial.finished]

    def remaining(self, total: int) -> int:
        """Return how many trials are missing to `total` finished ones."""
        return max(0, total - len(self.finished()))

    def best(self, total: int) -> TrialRecord:
        """Return the best complete trial of the first `total` finished ones; the earliest of equals.

        Later trials are left out, so that the result depends on the budget and not on what ran later.

        Raises:
            UserError: none of them is complete.
        """
        complete = [trial for trial in self.finished()[:total] if trial.state == "complete"]
        if not complete:
            raise UserError(f"no trial of study {self.name} is complete: run more trials")
        return max(complete, key=lambda trial: (trial.value, -trial.number))

    def ask(self, worker: str = "") -> RunningTrial:
        """Draw a trial: a queued one if there is any, else one whose settings the sampler draws.

        A queued trial whose settings the space does not allow fails here, and the next one is drawn.
        """
        trial, params = self._retry(self._draw)
        is_stop_requested = partial(self.impatient().is_stop_requested, trial.number)
        running = RunningTrial(trial.number, params, trial, self._retry, self.plan.single, is_stop_requested)
        running.set_attr("worker", worker)
        return running

    def tell(self, number: int, *values: float) -> None:
        """End a trial with one value an objective. A value that is not finite fails the trial."""
        if all(map(math.isfinite, values)):
            self._end(number, "COMPLETE", values)
        else:
            self.fail(number, f"the score is {values[0]}")

    def prune(self, number: int) -> None:
        """End a trial that the pruner or a person ended early. Its last reported score becomes its value."""
        self._end(number, "PRUNED")

    def fail(self, number: int, reason: str = "") -> None:
        """End a failed trial. It does not count against the budget and is not tried again."""
        (trial,) = (trial for trial in self._frozen_trials() if trial.number == number)
        if reason:
            self._set_attr(number, "reason", reason)
        # Optuna's samplers learn nothing from FAIL (optuna issue 2864). So a trial whose settings were to blame is
        # stored as they expect it: PRUNED, with a broken constraint.
        self._end(number, "PRUNED" if trial.constraints.get(FITS, 0) > 0 else "FAIL")

    def num_running(self) -> int:
        """Return how many trials run."""
        return sum(trial.state.name == "RUNNING" for trial in self._frozen_trials())

    def running(self, worker: str) -> list[TrialRecord]:
        """Return the trials that a worker runs."""
        return [trial for trial in self.trials() if trial.state == "running" and trial.attrs.get("worker") == worker]

    def recover(self, worker: str | None = None) -> list[TrialRecord]:
        """Fail running trials as interrupted, queue their settings again, and return them.

        Call it only if no process runs these trials any more. Trials that a person asked to stop are pruned instead.

        Args:
            worker: the dead worker whose trials are meant; None means all trials.
        """
        running = [trial for trial in self._frozen_trials() if trial.state.name == "RUNNING"]
        orphaned = [trial for trial in running if worker in (None, trial.user_attrs.get("worker"))]
        for trial in orphaned:
            if STOP_REQUEST in trial.user_attrs:
                self.prune(trial.number)
        interrupted = [trial for trial in orphaned if STOP_REQUEST not in trial.user_attrs]
        for trial in interrupted:
            # Queue first and fail second. If this process dies in between, the next `recover` finds the trial still
            # RUNNING and its retry in the queue (see `_queue_again`). The other order would lose the settings.
            self._retry(partial(self._queue_again, trial))
            self._set_attr(trial.number, INTERRUPTED, value=True)
            self._end(trial.number, "FAIL")
        numbers = {trial.number for trial in interrupted}
        return [trial for trial in self.trials() if trial.number in numbers]

    def enqueue_initial_trials(self, num_drawing: int) -> None:
        """Queue initial trials until `num_drawing` trials wait, or none is left.

        They are queued one by one and not all at once: interrupted settings then run before later initial trials. Only
        one process may call it, because two would queue the same settings.

        Args:
            num_drawing: the number of workers that are about to draw.
        """
        while self._initial_trials and self._num_waiting() < num_drawing:
            settings, attrs = self._initial_trials.pop(0)
            self._retry(partial(self.raw.enqueue_trial, settings, attrs, skip_if_exists=True))

    def put_first(self, initial_trials: Sequence[QueuedTrial]) -> None:
        """Put more initial trials before those of the plan that are not queued yet."""
        self._initial_trials[:0] = [(checked(self.plan.space, settings), attrs) for settings, attrs in initial_trials]

    def enqueue(self, settings: Mapping[str, Setting], request: str) -> int:
        """Queue a trial that a person asked for. Return its number.

        Args:
            settings: some or all settings; the sampler draws the others.
            request: the option of `tune`, and when.
        """
        self._retry(lambda: self.raw.enqueue_trial(dict(settings), user_attrs={REQUEST: request}))
        requested = [trial for trial in self._frozen_trials() if trial.user_attrs.get(REQUEST) == request]
        return max(trial.number for trial in requested)

    def request_stop(self, number: int, request: str) -> None:
        """Ask for the end of a trial that waits or runs.

        Raises:
            UsageError: the trial has just ended.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            self._set_attr(number, STOP_REQUEST, request)
        except UpdateFinishedTrialError as error:
            raise UsageError(f"trial {number} has ended") from error

    def settings_of(self, number: int) -> dict[str, Setting]:
        """Return the settings of a trial, whether or not the space allows them."""
        (trial,) = (trial for trial in self._frozen_trials() if trial.number == number)
        return drawn(trial)

    def is_stop_requested(self, number: int) -> bool:
        """Return whether a person asked for the end of a trial."""
        return STOP_REQUEST in self._retry(lambda: self._storage.get_trial(self._trial_id(number))).user_attrs

    def num_interruptions(self, record: TrialRecord) -> int:
        """Return how often the settings of an interrupted trial were interrupted, this trial included."""
        by_number = {trial.number: trial for trial in self._frozen_trials()}
        number = record.number
        count = 1
        while is_retry(by_number[number]):
            number = by_number[number].user_attrs[RETRY]
            count += 1
        return count

    def store_config(self, config: Mapping[str, str]) -> None:
        """Record the values behind the study's name. A later study compares itself with them."""
        self.set_attr(_CONFIG, dict(config))

    def _draw(self) -> "tuple[Trial, dict[str, Setting]]":
        from src.search.samplers import suggest

        space = self.plan.space
        while True:
            trial = self.raw.ask()
            error = settings_error(self._frozen_trials()[trial.number], space)
            if not error:
                return trial, checked(space, suggest(trial, space))
            self.fail(trial.number, error)

    def _record(self, trial: "FrozenTrial") -> TrialRecord:
        record = record_of(trial, self.plan.space)
        if record.state in ENDED:
            self._ended[record.number] = record
        return record

    def _frozen_trials(self) -> "list[FrozenTrial]":
        return self._retry(lambda: self.raw.get_trials(deepcopy=False))

    def _num_waiting(self) -> int:
        return sum(trial.state.name == "WAITING" for trial in self._frozen_trials())

    def _queue_again(self, trial: "FrozenTrial") -> None:
        # The retry may be queued already: by an earlier process, or by a first try whose answer was lost.
        if all(other.user_attrs.get(RETRY) != trial.number for other in self.raw.get_trials(deepcopy=False)):
            asked = {REQUEST: trial.user_attrs[REQUEST]} if REQUEST in trial.user_attrs else {}
            self.raw.enqueue_trial(drawn(trial), user_attrs={RETRY: trial.number, **asked})

    def _set_attr(self, number: int, key: str, value: Any) -> None:
        # `optuna.Study` sets attributes of trials only within `ask`, so the storage does it.
        self._retry(lambda: self._storage.set_trial_user_attr(self._trial_id(number), key, value))

    def _trial_id(self, number: int) -> int:
        study_id = self._storage.get_study_id_from_name(self.name)
        return self._storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def _end(self, number: int, state: str, values: Sequence[float] | None = None) -> None:
        from optuna.trial import TrialState

        # A retry ends the trial a second time if the answer to the first call was lost.
        self._retry(lambda: self.raw.tell(number, values, state=TrialState[state], skip_if_finished=True))


def open_study(url: str, plan: StudyPlan) -> Study:
    """Open a study, or begin it. `Study.enqueue_initial_trials` queues its initial trials.

    Args:
        url: an SQLAlchemy URL or grpc://HOST:PORT. A missing SQLite file is made, with its folder.
        plan: `sampler_of` and `pruner_of` make the study's sampler and pruner from it.

    Raises:
        UsageError: the space does not allow an initial trial.
        UserError: the storage cannot be opened.
    """
    # A user waits here, so a wrong address must fail at once.
    study = join_study(url, plan, RetryPolicy.of(url).once())
    if _IDENTITY not in study.raw.user_attrs:
        study.raw.set_user_attr(_IDENTITY, uuid.uuid4().hex)
    return study


def join_study(url: str, plan: StudyPlan, opening: RetryPolicy | None = None) -> Study:
    """Join a study that another process has opened, or is about to open.

    Args:
        url: as for `open_study`.
        plan: as for `open_study`.
        opening: the retries while the study is opened; by default those of all other operations.

    Raises:
        UsageError: as `open_study`.
        UserError: as `open_study`.
    """
    import optuna

    from src.search.pruners import pruner_of
    from src.search.samplers import sampler_of

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    opening = opening or RetryPolicy.of(url)
    storage = open_storage(url, opening.limit_s)
    create = partial(
        optuna.create_study,
        storage=storage,
        study_name=plan.name,
        directions=[_DIRECTIONS[objective] for objective in plan.objectives],
        sampler=sampler_of(plan),
        pruner=pruner_of(plan),
        load_if_exists=True,
    )
    return Study(opening(create), storage, plan, RetryPolicy.of(url))


def study_names(url: str) -> list[str]:
    """Return the names of all studies in a storage.

    Raises:
        UsageError: as `open_study`.
        UserError: as `open_study`.
    """
    import optuna

    return RetryPolicy.of(url).once()(lambda: optuna.get_all_study_names(open_storage(url)))


def other_studies(url: str, prefix: str, name: str) -> dict[str, Mapping[str, str]]:
    """Return what `store_config` recorded of the other studies whose names begin with `prefix`, the newest last.

    Raises:
        UserError: as `open_study`.
    """
    import optuna

    summaries = RetryPolicy.of(url).once()(lambda: optuna.get_all_study_summaries(open_storage(url)))
    begun = [summary for summary in summaries if summary.datetime_start]
    others = [summary for summary in begun if summary.study_name.startswith(prefix) and summary.study_name != name]
    others.sort(key=lambda summary: str(summary.datetime_start))
    return {summary.study_name: summary.user_attrs.get(_CONFIG, {}) for summary in others}
