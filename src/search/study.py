"""Searches over settings, kept in Optuna's storage, which is the truth about them: MLflow can be rebuilt from it."""

import math
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from src.core.config import Objective
from src.core.errors import UserError
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
    RETRY,
    TrialRecord,
    drawn,
    fault_of,
    is_retry,
    record_of,
)

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

_IDENTITY = "identity"
_FACTS = "facts"
_DIRECTIONS: Mapping[Objective, Literal["maximize", "minimize"]] = {"macro_f1": "maximize", "parameters": "minimize"}


@dataclass(frozen=True)
class RunningTrial:
    """A trial to be run: its settings, and where to report how it goes."""

    number: int
    params: dict[str, Setting]
    _trial: "Trial"
    _patience: RetryPolicy
    _prunes: bool

    def report(self, epoch: int, metrics: Mapping[str, float], *, last: bool = False) -> bool:
        """Report the metrics of an epoch, counted from 1, `val_macro_f1` among them.

        Returns:
            Whether the trial is worth going on. After the `last` epoch it is: nothing is left to save.
        """
        row = {**{name: value for name, value in metrics.items() if name != "epoch"}, "at_ms": round(time.time() * 1e3)}
        self._patience(lambda: self._trial.set_user_attr(f"{EPOCH}{epoch}", row))
        if not self._prunes:
            return True
        self._patience(lambda: self._trial.report(metrics["val_macro_f1"], epoch))
        return last or not self._patience(self._trial.should_prune)

    def note(self, key: str, value: Any) -> None:
        """Record something about the trial (what JSON can say), found later in `TrialRecord.attrs`."""
        self._patience(lambda: self._trial.set_user_attr(key, value))

    def set_outcome(self, outcome: Mapping[str, Any]) -> None:
        """Record what the trial's best epoch gave, found later in `TrialRecord.outcome`."""
        self.note(OUTCOME, dict(outcome))

    def set_failure(self, cause: str, reason: str, *, unfit: bool) -> None:
        """Record why the trial went wrong; the sampler avoids the like of settings that are `unfit` to be trained."""
        self.note("cause", cause)
        self.note("reason", reason)
        if unfit:
            self._patience(lambda: self._trial.set_constraint(FITS, 1.0))


class Study:
    """One search. Trials are drawn with `ask` and end with `tell`, `prune` or `fail`. Made by `open_study`.

    All methods wait for a storage that does not answer, and raise `UserError` where it stays away.
    """

    def __init__(
        self,
        study: "optuna.Study",
        storage: "BaseStorage",
        plan: StudyPlan,
        patience: RetryPolicy,
        ended: dict[int, TrialRecord] | None = None,
    ) -> None:
        self.raw = study
        self.plan = plan
        self._storage = storage
        self._patience = patience
        self._to_try = [checked(plan.space, settings) for settings in plan.initial_trials]
        self._ended: dict[int, TrialRecord] = {} if ended is None else ended

    @property
    def name(self) -> str:
        """The study's name in the storage."""
        return self.plan.name

    @property
    def identity(self) -> str:
        """What tells this study from another of the same name, whose storage is gone."""
        return str(self._patience(lambda: self.raw.user_attrs)[_IDENTITY])

    def trials(self) -> list[TrialRecord]:
        """All trials in the order of their numbers."""
        return [self._ended.get(trial.number) or self._record(trial) for trial in self._frozen()]

    def try_trials(self) -> list[TrialRecord]:
        """All trials, for somebody who does not wait for a storage that does not answer."""
        return Study(self.raw, self._storage, self.plan, replace(self._patience, limit_s=0), self._ended).trials()

    def finished(self) -> list[TrialRecord]:
        """The trials that count against a budget: complete or pruned, in the order of their numbers."""
        return [trial for trial in self.trials() if trial.finished]

    def remaining(self, total: int) -> int:
        """How many trials are missing to `total` finished ones."""
        return max(0, total - len(self.finished()))

    def best(self, total: int) -> TrialRecord:
        """The best complete trial of the first `total` finished ones, the earliest of equals.

        Trials beyond `total` are left out, so that the answer depends on the budget and not on what ran later.

        Raises:
            UserError: none of them is complete.
        """
        complete = [trial for trial in self.finished()[:total] if trial.state == "complete"]
        if not complete:
            raise UserError(f"no trial of study {self.name} is complete: run more trials")
        return max(complete, key=lambda trial: (trial.value, -trial.number))

    def ask(self, worker: str = "") -> RunningTrial:
        """Draw a trial to run: one that waits with settings that the space allows, else one that is sampled."""
        trial, params = self._patience(self._draw)
        ticket = RunningTrial(trial.number, params, trial, self._patience, self.plan.single)
        ticket.note("worker", worker)
        return ticket

    def tell(self, number: int, *values: float) -> None:
        """End a trial with its scores, one an objective. A score that is no number fails it."""
        if all(map(math.isfinite, values)):
            self._end(number, "COMPLETE", values)
        else:
            self.fail(number, f"the score is {values[0]}")

    def prune(self, number: int) -> None:
        """End a trial that `RunningTrial.report` found not worth finishing; the score reported last is its value."""
        self._end(number, "PRUNED")

    def fail(self, number: int, reason: str = "") -> None:
        """End a trial that went wrong; it does not count against the budget and is not tried again.

        A trial whose settings were to blame is kept as Optuna's samplers want it: pruned, and with a broken
        constraint, for of failed trials they learn nothing (optuna issue 2864).
        """
        (trial,) = (trial for trial in self._frozen() if trial.number == number)
        if reason:
            self._note(number, "reason", reason)
        self._end(number, "PRUNED" if trial.constraints.get(FITS, 0) > 0 else "FAIL")

    def num_running(self) -> int:
        """How many trials are being run."""
        return sum(trial.state.name == "RUNNING" for trial in self._frozen())

    def running(self, worker: str) -> list[TrialRecord]:
        """The trials that a worker runs."""
        return [trial for trial in self.trials() if trial.state == "running" and trial.attrs.get("worker") == worker]

    def recover(self, worker: str | None = None) -> list[TrialRecord]:
        """Fail the trials that are running and queue their settings again; returns them.

        To be called only when no process runs them: those of a `worker` that died, or all of them.
        """
        running = [trial for trial in self._frozen() if trial.state.name == "RUNNING"]
        lost = [trial for trial in running if worker in (None, trial.user_attrs.get("worker"))]
        for trial in lost:
            # Queued first and failed second: whoever dies between the two finds the trial still running, and its
            # successor in the queue.
            self._patience(partial(self._queue_again, trial))
            self._note(trial.number, INTERRUPTED, value=True)
            self._end(trial.number, "FAIL")
        numbers = {trial.number for trial in lost}
        return [trial for trial in self.trials() if trial.number in numbers]

    def enqueue_known_good(self, drawing: int) -> None:
        """Queue settings known to be good for so many trials that are about to be drawn, and find nothing waiting.

        One by one and not all at once, so that settings that were interrupted are run again before others are begun.
        To be called by the one process that sends others, for two would queue the same.
        """
        while self._to_try and sum(trial.state.name == "WAITING" for trial in self._frozen()) < drawing:
            self._patience(partial(self.raw.enqueue_trial, self._to_try.pop(0), skip_if_exists=True))

    def num_interruptions(self, record: TrialRecord) -> int:
        """How often a trial's settings were begun and interrupted, itself included."""
        by_number = {trial.number: trial for trial in self._frozen()}
        number, count = record.number, 1
        while is_retry(by_number[number]):
            number, count = by_number[number].user_attrs[RETRY], count + 1
        return count

    def store_config(self, facts: Mapping[str, str]) -> None:
        """Record what the study's name stands for, so that a later one can say what has changed since."""
        self._patience(lambda: self.raw.set_user_attr(_FACTS, dict(facts)))

    def _draw(self) -> "tuple[Trial, dict[str, Setting]]":
        from src.search.samplers import suggest

        space, trial = self.plan.space, self.raw.ask()
        if fault := fault_of(self._frozen()[trial.number], space):
            self.fail(trial.number, fault)
            return self._draw()
        return trial, checked(space, suggest(trial, space))

    def _record(self, trial: "FrozenTrial") -> TrialRecord:
        record = record_of(trial, self.plan.space)
        if record.state in ENDED:
            self._ended[record.number] = record
        return record

    def _frozen(self) -> "list[FrozenTrial]":
        return self._patience(lambda: self.raw.get_trials(deepcopy=False))

    def _queue_again(self, trial: "FrozenTrial") -> None:
        if all(other.user_attrs.get(RETRY) != trial.number for other in self.raw.get_trials(deepcopy=False)):
            self.raw.enqueue_trial(drawn(trial), user_attrs={RETRY: trial.number})

    def _note(self, number: int, key: str, value: Any) -> None:
        self._patience(lambda: self._storage.set_trial_user_attr(self._id(number), key, value))

    def _id(self, number: int) -> int:
        study_id = self._storage.get_study_id_from_name(self.name)
        return self._storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def _end(self, number: int, state: str, values: Sequence[float] | None = None) -> None:
        from optuna.trial import TrialState

        # Told twice where the answer to the first time was lost.
        self._patience(lambda: self.raw.tell(number, values, state=TrialState[state], skip_if_finished=True))


def open_study(url: str, plan: StudyPlan) -> Study:
    """Open a study, or begin it; `Study.line_up` has the settings known to be good tried first.

    Args:
        url: an SQLAlchemy URL (a missing SQLite file is made, with its folder), or grpc://HOST:PORT.
        plan: what is searched; which trials end early is for `pruner_of` to say, what is drawn for `sampler_of`.

    Raises:
        UsageError: a known-good setting is unknown to the space or lies outside of it.
        UserError: the storage cannot be opened.
    """
    study = join_study(url, plan, replace(RetryPolicy.of(url), limit_s=0))
    if _IDENTITY not in study.raw.user_attrs:
        study.raw.set_user_attr(_IDENTITY, uuid.uuid4().hex)
    return study


def join_study(url: str, plan: StudyPlan, patience: RetryPolicy | None = None) -> Study:
    """Take part in a study that another process has opened, or is about to; raises as `open_study` does."""
    import optuna

    from src.search.pruners import pruner_of
    from src.search.samplers import sampler_of

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    patience = patience or RetryPolicy.of(url)
    storage = open_storage(url, patience.limit_s)
    make = partial(
        optuna.create_study,
        storage=storage,
        study_name=plan.name,
        directions=[_DIRECTIONS[objective] for objective in plan.objectives],
        sampler=sampler_of(plan),
        pruner=pruner_of(plan),
        load_if_exists=True,
    )
    return Study(patience(make), storage, plan, RetryPolicy.of(url))


def other_studies(url: str, prefix: str, name: str) -> dict[str, Mapping[str, str]]:
    """What the other studies of a storage whose names begin with `prefix` remember of themselves, the newest last."""
    import optuna

    found = [each for each in optuna.get_all_study_summaries(open_storage(url)) if each.datetime_start]
    others = [each for each in found if each.study_name.startswith(prefix) and each.study_name != name]
    others.sort(key=lambda each: str(each.datetime_start))
    return {each.study_name: each.user_attrs.get(_FACTS, {}) for each in others}
