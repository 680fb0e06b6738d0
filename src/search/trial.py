"""What became of each trial of a study, read from its storage."""

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
# In a trial's attributes: which one's settings it runs again, its epochs, and its best one.
RETRY = "retry_of"
EPOCH = "epoch:"
OUTCOME = "outcome"
# A constraint that a trial breaks whose settings are to blame that it could not be trained.
FITS = "fits"
History = tuple[Mapping[str, float], ...]


@dataclass(frozen=True)
class TrialRecord:
    """What became of one trial.

    Attributes:
        value: validation macro-F1, of a pruned trial that reported last; None if there is none.
        history: a row of metrics for each epoch so far, with `epoch` counted from 1 and `at_ms`, the time.
        began_ms, ended_ms: milliseconds since 1970, None where it has not come to that.
        reason: why a trial failed or was pruned.
        cause: what kind of failure it was; failures of one kind are counted together.
        outcome: what `Study.note_outcome` recorded of its best epoch.
        attrs: what else `RunningTrial.note` recorded.
    """

    number: int
    state: State
    params: dict[str, Setting]
    value: float | None
    history: History
    began_ms: int | None
    ended_ms: int | None
    reason: str
    cause: str
    outcome: Mapping[str, Any]
    attrs: dict[str, Any]

    @property
    def epochs(self) -> int:
        """How many epochs were scored."""
        return len(self.history)

    @property
    def seconds(self) -> float:
        """How long it ran; 0 while it runs."""
        return (self.ended_ms - self.began_ms) / 1000 if self.began_ms and self.ended_ms else 0.0

    @property
    def finished(self) -> bool:
        """Whether it counts against a budget."""
        return self.state in FINISHED


def record_of(trial: "FrozenTrial", space: Space) -> TrialRecord:
    """A trial as the storage has it, with the settings that the space allows."""
    attrs = dict(trial.user_attrs)
    unfit = trial.state.is_finished() and trial.constraints.get(FITS, 0) > 0
    state: State = "failed" if unfit else _STATES[trial.state.name]
    rows = {int(key.removeprefix(EPOCH)): attrs.pop(key) for key in list(attrs) if key.startswith(EPOCH)}
    reason, cause, interrupted = (attrs.pop(key, "") for key in ("reason", "cause", INTERRUPTED))
    return TrialRecord(
        number=trial.number,
        state=state,
        params=allowed(space, drawn(trial)),
        value=_value(trial),
        history=tuple({"epoch": epoch, **rows[epoch]} for epoch in sorted(rows)),
        began_ms=_milliseconds(trial.datetime_start),
        ended_ms=_milliseconds(trial.datetime_complete),
        reason=_reason(state, trial, INTERRUPTED if interrupted else reason),
        cause=INTERRUPTED if interrupted else cause,
        outcome=attrs.pop(OUTCOME, {}),
        attrs=attrs,
    )


def drawn(trial: "FrozenTrial") -> dict[str, Setting]:
    """The settings of a trial, whether or not its space allows them.

    A queued trial's settings become its parameters one by one while it is asked for; killed in between it has few.
    """
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def fault_of(trial: "FrozenTrial", space: Space) -> str:
    """Return why the space does not allow the settings that a trial was queued with; empty if it does."""
    try:
        checked(space, drawn(trial))
    except UsageError as refusal:
        return str(refusal)
    return ""


def is_retry(trial: "FrozenTrial") -> bool:
    """Whether a trial runs another's settings again."""
    return RETRY in trial.user_attrs


def why_pruned(epoch: int | None) -> str:
    """What is said of a pruned trial."""
    return f"others were better at epoch {epoch}"


def _value(trial: "FrozenTrial") -> float | None:
    if trial.values is not None:
        return float(trial.values[0])
    last = trial.intermediate_values[trial.last_step] if trial.last_step is not None else math.nan
    return last if math.isfinite(last) else None


def _reason(state: State, trial: "FrozenTrial", given: str) -> str:
    return why_pruned(trial.last_step) if state == "pruned" else given


def _milliseconds(moment: Any) -> int | None:
    return round(moment.timestamp() * 1000) if moment else None
