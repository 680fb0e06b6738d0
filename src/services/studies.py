"""Searches over settings, kept in Optuna's storage, which is the truth about them: MLflow can be rebuilt from it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from src.core.config import Pruning, Range, Setting, Space
from src.core.errors import Pruned, Refusal
from src.core.locks import sqlite_file, turn
from src.core.records import digest_of
from src.services.spaces import Encoding, is_whole

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial, Trial

State = Literal["complete", "pruned", "failed", "running", "waiting"]
_STATES: Mapping[str, State] = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waiting",
}
FINISHED = ("complete", "pruned")
# SQLite's own limit is 5 s, which the searches of several models that share a file can exceed on a slow disk.
_WAIT_FOR_SQLITE_S = 60


@dataclass(frozen=True)
class TrialRecord:
    """What became of one trial.

    `value` is the score reported last (validation macro-F1; None if there is none), `epochs` how many were scored,
    `reason` why a trial failed or was pruned, `attrs` what `Ticket.note` recorded.
    """

    number: int
    state: State
    params: dict[str, Setting]
    value: float | None
    epochs: int
    seconds: float
    reason: str
    attrs: dict[str, Any]


@dataclass(frozen=True)
class Ticket:
    """A trial to be run: its settings, and where to report how it goes."""

    number: int
    params: dict[str, Setting]
    _trial: "Trial"

    def report(self, epoch: int, value: float, *, last: bool = False) -> None:
        """Report the score after an epoch, counted from 1; after the `last`, nothing is left to save.

        Raises:
            Pruned: the trial is not worth finishing.
        """
        self._trial.report(value, epoch)
        if not last and self._trial.should_prune():
            raise Pruned(_why_pruned(epoch))

    def note(self, key: str, value: str | float | None) -> None:
        """Record something about the trial, found later in `TrialRecord.attrs`."""
        self._trial.set_user_attr(key, value)


class Study:
    """One search. Trials are drawn with `ask` and end with `tell`, `prune` or `fail`. Made by `open_study`."""

    def __init__(self, study: "optuna.Study", space: Encoding, seed: int, startup_trials: int) -> None:
        self._study = study
        self._space = space
        self._distributions = {stored: _distribution(choice) for stored, choice in space.stored().items()}
        self._seed = seed
        self._startup_trials = startup_trials

    @property
    def name(self) -> str:
        """The study's name in the storage."""
        return str(self._study.study_name)

    def trials(self) -> list[TrialRecord]:
        """All trials in the order of their numbers."""
        return [self._record(trial) for trial in self._frozen()]

    def finished(self) -> list[TrialRecord]:
        """The trials that count against a budget: complete or pruned, in the order of their numbers."""
        return [trial for trial in self.trials() if trial.state in FINISHED]

    def remaining(self, total: int) -> int:
        """How many trials are missing to `total` finished ones."""
        return max(0, total - len(self.finished()))

    def best(self, total: int) -> TrialRecord:
        """The best complete trial of the first `total` finished ones, the earliest of equals.

        Trials beyond `total` are left out, so that the answer depends on the budget and not on what ran later.

        Raises:
            Refusal: none of them is complete.
        """
        complete = [trial for trial in self.finished()[:total] if trial.state == "complete"]
        if not complete:
            raise Refusal(f"no trial of study {self.name} is complete: run more trials")
        return max(complete, key=lambda trial: (trial.value, -trial.number))

    def ask(self) -> Ticket:
        """Draw a trial: one that is waiting, else one that the sampler suggests."""
        self._study.sampler = self._sampler()
        trial = self._study.ask(self._distributions)
        return Ticket(trial.number, self._space.decode(trial.params), trial)

    def tell(self, ticket: Ticket, value: float) -> None:
        """End a trial with its score. A score that is no number fails it."""
        if math.isfinite(value):
            self._end(ticket, "COMPLETE", value=value)
        else:
            self.fail(ticket, f"the score is {value}")

    def prune(self, ticket: Ticket) -> None:
        """End a trial that `Ticket.report` found not worth finishing; the score reported last is its value."""
        self._end(ticket, "PRUNED")

    def fail(self, ticket: Ticket, reason: str) -> None:
        """End a trial that went wrong; it does not count against the budget and is not tried again."""
        ticket.note("reason", reason)
        self._end(ticket, "FAIL")

    def recover(self) -> list[TrialRecord]:
        """Fail the trials that a killed process left running and queue their settings again; returns them.

        To be called only when no other process runs this study: its trials would be taken from it.
        """
        trials = self._frozen()
        queued = {trial.user_attrs.get("retry_of") for trial in trials}
        lost = [trial for trial in trials if trial.state.name == "RUNNING"]
        for trial in lost:
            # Queued first and failed second: whoever dies between the two finds the trial still running, and its
            # successor in the queue.
            if trial.number not in queued:
                self._study.enqueue_trial(_drawn(trial), user_attrs={"retry_of": trial.number})
            self._study.tell(trial.number, state=type(trial.state).FAIL)
        numbers = {trial.number for trial in lost}
        return [trial for trial in self.trials() if trial.number in numbers]

    def enqueue(self, settings: Mapping[str, Setting]) -> None:
        """Queue settings to be tried before any that the sampler suggests, unless the study has had them.

        Raises:
            UsageRefusal: a setting is unknown to the space or lies outside of it.
        """
        self._study.enqueue_trial(self._space.encode(settings), skip_if_exists=True)

    def _frozen(self) -> "list[FrozenTrial]":
        return self._study.get_trials(deepcopy=False)

    def _end(self, ticket: Ticket, state: str, value: float | None = None) -> None:
        from optuna.trial import TrialState

        self._study.tell(ticket.number, value, state=TrialState[state])

    def _sampler(self) -> "optuna.samplers.BaseSampler":
        # A sampler's own generator starts anew with the process and would repeat its draws after a resume (optuna
        # issue 3255). Seeding each draw by its position gives the trials of a study that was never interrupted; a
        # trial run again takes the position of the one it replaces.
        from optuna.samplers import TPESampler

        position = sum("retry_of" not in trial.user_attrs for trial in self._frozen())
        return TPESampler(multivariate=True, n_startup_trials=self._startup_trials, seed=self._seed + position)

    def _record(self, trial: "FrozenTrial") -> TrialRecord:
        state = _STATES[trial.state.name]
        attrs = dict(trial.user_attrs)
        # Only `recover` fails a trial without giving a reason: those of a finished trial can no longer be set.
        reason = attrs.pop("reason", "interrupted" if state == "failed" else "")
        if state == "pruned":
            reason = _why_pruned(trial.last_step)
        return TrialRecord(
            number=trial.number,
            state=state,
            params=self._space.decode(_drawn(trial)),
            value=trial.value,
            epochs=len(trial.intermediate_values),
            seconds=trial.duration.total_seconds() if trial.duration else 0.0,
            reason=reason,
            attrs=attrs,
        )


def open_study(
    storage_url: str,
    name: str,
    space: Space,
    *,
    known_good: Sequence[Mapping[str, Setting]] = (),
    seed: int,
    startup_trials: int,
    pruner: Pruning,
    min_epochs: int,
    reduction_factor: int,
) -> Study:
    """Open the study `name`, or begin it, with the settings known to be good first in its queue.

    The sampler is the multivariate TPE (Falkner et al., ICML 2018) after `startup_trials` random trials. Which trials
    end early is `pruner_of`'s to say, and why by successive halving.

    Args:
        storage_url: an SQLAlchemy URL; a missing SQLite file is made, with its folder.
        name: the study's name, by `study_name`.
        space: what each setting may be.
        known_good: settings tried first, once, however often the study is opened.
        seed: with it and the trials so far, the next draw is certain.
        startup_trials: trials before the sampler and the median pruner learn.
        pruner: which trials end early.
        min_epochs: epochs of a trial before it may be pruned, at least 1.
        reduction_factor: of how many trials halving keeps one, at least 2; like `min_epochs` one for a whole study,
            for Optuna keeps the scores of a rung by its number and not by its epoch.

    Raises:
        UsageRefusal: a known-good setting is unknown to the space or lies outside of it.
        Refusal: the storage cannot be opened.
    """
    import optuna

    from src.services.pruners import pruner_of

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    encoding = Encoding(space)
    optuna_study = optuna.create_study(
        storage=_open_storage(storage_url),
        study_name=name,
        direction="maximize",
        pruner=pruner_of(pruner, startup_trials, min_epochs, reduction_factor),
        load_if_exists=True,
    )
    study = Study(optuna_study, encoding, seed, startup_trials)
    for settings in known_good:
        study.enqueue(settings)
    return study


def study_name(model: str, scale: str, *digests: str) -> str:
    """The name of a study: what it searches, and the digests of all that makes its scores comparable."""
    return "-".join((model, scale, *digests))


def space_digest(space: Space) -> str:
    """A short digest of a search space: another space is another study, whose trials must not be mixed."""
    return digest_of((name, json.dumps(asdict(choice))) for name, choice in space.items())[:8]


def _why_pruned(epoch: int | None) -> str:
    return f"others were better at epoch {epoch}"


def _distribution(choice: Range) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if choice.choices is not None:
        return CategoricalDistribution(choice.choices)
    if choice.powers_of_two is not None:
        low, high = choice.powers_of_two
        return IntDistribution(low, high)
    assert choice.low is not None and choice.high is not None
    if is_whole(choice):
        return IntDistribution(int(choice.low), int(choice.high), log=choice.log)
    return FloatDistribution(choice.low, choice.high, log=choice.log)


def _drawn(trial: "FrozenTrial") -> dict[str, Setting]:
    # A queued trial's settings become its parameters one by one while it is asked for; killed in between it has few.
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _open_storage(url: str) -> "RDBStorage":
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    database = sqlite_file(url)
    try:
        if database is None:
            return RDBStorage(url)
        # Two processes that both find no tables would both make them, and the second would fail.
        with turn(database.with_name(f"{database.name}.lock")):
            return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": _WAIT_FOR_SQLITE_S}})
    except SQLAlchemyError as error:
        # The URL of a server may hold a password, so it is not repeated.
        where = database or "on the server"
        raise Refusal(f"the storage of studies {where} cannot be opened: {str(error).splitlines()[0]}") from error
