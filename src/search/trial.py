"""Records of trials, read from Optuna's storage."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from src.core.config import Space
from src.core.errors import UsageError
from src.core.training_config import Setting
from src.search.space import allowed, checked

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

State = Literal["complete", "pruned", "failed", "running", "waiting"]
_STATES: Mapping[str, State] = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waiting",
}
FINISHED = ("complete", "pruned")
ENDED = (*FINISHED, "failed")
INTERRUPTED = "interrupted"
# User attributes of a trial: the number of the interrupted trial whose settings it runs again, the metrics of an epoch
# (the epoch's number follows the colon), and the results of the best epoch.
RETRY = "retry_of"
EPOCH = "epoch:"
OUTCOME = "outcome"
# User attributes of a trial that a person asked for, or asked to stop: the option of `tune`, and when.
REQUEST = "request"
STOP_REQUEST = "stop_request"
# A constraint. A trial breaks it if it could not be trained because of its settings.
FITS = "fits"
History = tuple[Mapping[str, float], ...]


@dataclass(frozen=True)
class TrialRecord:
    """The state of one trial at one time."""

    number: int
    state: State
    params: dict[str, Setting]
    # Validation macro-F1: the best of a complete trial, the last reported one of any other; None if there is none.
    value: float | None
    # One row of metrics for each epoch so far, with `epoch` counted from 1 and `at_ms`, the time.
    history: History
    # Milliseconds since 1970; None if the trial has not begun, or not ended.
    began_ms: int | None
    ended_ms: int | None
    # One line on why the trial failed or was pruned.
    reason: str
    # The kind of failure. Failures of one kind are counted together.
    cause: str
    # The results of the best epoch, as `RunningTrial.set_outcome` recorded them.
    outcome: Mapping[str, Any]
    # The other attributes, as `RunningTrial.set_attr` recorded them.
    attrs: dict[str, Any]

    @property
    def epochs(self) -> int:
        """The number of scored epochs."""
        return len(self.history)

    @property
    def seconds(self) -> float:
        """The duration of an ended trial; 0 while it runs."""
        return (self.ended_ms - self.began_ms) / 1000 if self.began_ms and self.ended_ms else 0.0

    @property
    def finished(self) -> bool:
        """Whether the trial counts against the budget."""
        return self.state in FINISHED


def record_of(trial: "FrozenTrial", space: Space) -> TrialRecord:
    """Return the record of a trial, with the settings that the space allows."""
    attrs = dict(trial.user_attrs)
    # `Study.fail` stores such a trial as PRUNED.
    unfit = trial.state.is_finished() and trial.constraints.get(FITS, 0) > 0
    state: State = "failed" if unfit else _STATES[trial.state.name]
    rows = {int(key.removeprefix(EPOCH)): attrs.pop(key) for key in list(attrs) if key.startswith(EPOCH)}
    reason = attrs.pop("reason", "")
    cause = attrs.pop("cause", "")
    if attrs.pop(INTERRUPTED, False):
        reason = INTERRUPTED
        cause = INTERRUPTED
    return TrialRecord(
        number=trial.number,
        state=state,
        params=allowed(space, drawn(trial)),
        value=_value(trial),
        history=tuple({"epoch": epoch, **rows[epoch]} for epoch in sorted(rows)),
        began_ms=_milliseconds(trial.datetime_start),
        ended_ms=_milliseconds(trial.datetime_complete),
        reason=_why_pruned(trial) if state == "pruned" else reason,
        cause=cause,
        outcome=attrs.pop(OUTCOME, {}),
        attrs=attrs,
    )


def drawn(trial: "FrozenTrial") -> dict[str, Setting]:
    """Return the settings of a trial, whether or not its space allows them.

    The settings of a queued trial become parameters one by one while a worker asks for it. If the worker is killed in
    between, only some are parameters.
    """
    # private API of Optuna 5.0: the key under which `enqueue_trial` keeps settings
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def settings_error(trial: "FrozenTrial", space: Space) -> str:
    """Return why the space does not allow the settings of a queued trial; empty if it does."""
    try:
        checked(space, drawn(trial))
    except UsageError as error:
        return str(error)
    return ""


def is_retry(trial: "FrozenTrial") -> bool:
    """Return whether a trial runs the settings of an interrupted one again."""
    return RETRY in trial.user_attrs


def _why_pruned(trial: "FrozenTrial") -> str:
    if STOP_REQUEST in trial.user_attrs:
        return f"stopped by {trial.user_attrs[STOP_REQUEST]}"
    return f"others were better at epoch {trial.last_step}"


def _value(trial: "FrozenTrial") -> float | None:
    if trial.values is not None:
        return float(trial.values[0])
    last = trial.intermediate_values[trial.last_step] if trial.last_step is not None else math.nan
    return last if math.isfinite(last) else None


def _milliseconds(moment: Any) -> int | None:
    return round(moment.timestamp() * 1000) if moment else None
