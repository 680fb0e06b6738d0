"""What MLflow shows of a study: drawn from the study's storage alone, so it can be drawn again at any time."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from src.cli.output import warn
from src.core.errors import UserError
from src.core.records import Scores
from src.core.training_config import Setting
from src.search.adapters import PendingAdapters
from src.search.trial import ENDED, INTERRUPTED, TrialRecord
from src.tracking.client import Dataset, Run, Tracker
from src.tracking.run_logging import log_history, log_scores

_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}


# A server that went away is asked again after so long; a request to it may itself take as long.
_TRY_AGAIN_S = 20.0


@dataclass
class _SyncedRun:
    """A trial as MLflow has it: its run, and what is known to be in there."""

    run: Run
    has_settings: bool = False
    epochs: int = 0
    ended: bool = False


@dataclass(frozen=True)
class TrialRunMetadata:
    """What every trial's run says besides its own.

    Attributes:
        title: how its pictures are headed.
        tags: what all trials have in common.
        settings: all that a trial is trained with, from its own parameters.
        datasets: what it reads.
    """

    title: str
    tags: Mapping[str, str]
    settings: Callable[[Mapping[str, Setting]], Mapping[str, object]]
    datasets: Sequence[Dataset] = ()


class MlflowSync:
    """Draws trials as runs below the study's. `show` never fails: what MLflow does not take now, it gets later.

    To be used by one process at a time, and of that by one thread. As a context it ends the study's run, as that itself
    would, but for a search that MLflow has not seen the end of: that is no failure, and `MlflowSync` says what to do.

    Raises:
        UserError: MLflow does not say what it has.
    """

    def __init__(self, tracker: Tracker, parent: Run, caption: TrialRunMetadata, shelf: PendingAdapters) -> None:
        self._tracker = tracker
        self._parent = parent
        self._caption = caption
        self.shelf = shelf
        self._pending: dict[int, TrialRecord] = {}
        self._try_again_s = 0.0
        self._shown: dict[int, _SyncedRun] = {}
        self._load_existing()
        shelf.tidy(number for number, shown in self._shown.items() if shown.ended)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self._parent.__exit__(kind, error, None)
        except UserError:
            self._try_again_s = math.inf
        if self.unreachable and error is None:
            warn("MLflow has not all of this search: once it answers, the same command with --sync brings it there")

    @property
    def unreachable(self) -> bool:
        """Whether MLflow did not take what it was given last."""
        return self._try_again_s > 0

    def show(self, trial: TrialRecord) -> None:
        """Draw how a trial stands now, and what could not be drawn before."""
        # A trial gets its settings one by one, and then its worker: before that they are not what it will run with.
        if self.has(trial) or (trial.state == "running" and "worker" not in trial.attrs):
            return
        self._pending[trial.number] = trial
        if time.monotonic() >= self._try_again_s:
            self._retry_pending(look=self.unreachable)

    def flush(self) -> None:
        """Draw what could not be drawn before, if MLflow takes it now, and see to it that no trial has two runs."""
        self._retry_pending(look=True)

    def has(self, trial: TrialRecord) -> bool:
        """Whether MLflow has all that there will ever be of a trial."""
        return trial.state == "waiting" or (trial.number in self._shown and self._shown[trial.number].ended)

    def require_all(self) -> None:
        """Refuse if something is missing in MLflow."""
        if self._pending:
            raise UserError(
                f"{len(self._pending)} trials are missing in MLflow, which does not take them now: try again"
            )

    def run_id(self, number: int) -> str:
        """The run of a trial; empty where MLflow has none yet."""
        return self._shown[number].run.id if number in self._shown else ""

    def _retry_pending(self, *, look: bool) -> None:
        try:
            if look:
                self._load_existing()
            for number in list(self._pending):
                # To the end of the queue: a trial that MLflow does not take must not be in the way of the others.
                trial = self._pending[number] = self._pending.pop(number)
                self._draw(trial)
                del self._pending[number]
            if self.unreachable:
                warn("MLflow answers again: what was missing there has been logged")
            self._try_again_s = 0.0
        except UserError as refusal:
            if not self.unreachable:
                warn(f"{refusal}; the search goes on, and what is missing there is logged later")
            self._try_again_s = time.monotonic() + _TRY_AGAIN_S

    def _load_existing(self) -> None:
        """Find the runs that there are, whoever made them."""
        mine, found = {shown.run.id: shown for shown in self._shown.values()}, dict[int, _SyncedRun]()
        for child in self._tracker.children(self._parent.id):
            number, ended = int(child.tags["trial"]), "state" in child.tags and not child.running
            # The tag comes last, so a run without it may lack anything; what it has is logged again and kept once.
            shown = mine.get(child.id) or _SyncedRun(self._tracker.reopen(child.id), ended=ended)
            if number in found:
                # MLflow's client asks again where an answer was lost, and the server then makes another run.
                spare, shown = sorted((found[number], shown), key=lambda each: (each.ended, each.has_settings))
                self._tracker.remove(spare.run.id)
            found[number] = shown
        self._shown = found

    def _draw(self, trial: TrialRecord) -> None:
        shown = self._shown.get(trial.number) or self._begin(trial)
        if not shown.has_settings:
            shown.run.inputs(self._caption.datasets)
            shown.run.json("settings.json", dict(self._caption.settings(trial.params)))
            # What all trials share is no parameter: only what is searched tells them apart in tables and charts.
            shown.run.params(trial.params)
            shown.has_settings = True
        for row in trial.history[shown.epochs :]:
            metrics = {name: value for name, value in row.items() if name not in ("epoch", "at_ms")}
            shown.run.metrics(metrics, step=int(row["epoch"]), at_ms=int(row["at_ms"]))
            shown.epochs += 1
        if trial.state in ENDED:
            self._end(shown.run, trial)
            shown.ended = True

    def _begin(self, trial: TrialRecord) -> _SyncedRun:
        tags = {**self._caption.tags, **_tags(trial)}
        run = self._tracker.run(f"trial {trial.number}", parent=self._parent.id, tags=tags, began_ms=trial.began_ms)
        self._shown[trial.number] = _SyncedRun(run)
        return self._shown[trial.number]

    def _end(self, run: Run, trial: TrialRecord) -> None:
        title = f"{self._caption.title}, trial {trial.number}"
        log_history(run, trial.history, title)
        if trial.outcome:
            scores = Scores(**trial.outcome["scores"])
            log_scores(run, scores, trial.outcome["report"], f"{title}, validation", "best_val", trial.ended_ms)
            figures = {"best_epoch": trial.outcome["best_epoch"], "parameters": trial.outcome["parameters"]}
            run.metrics(figures, at_ms=trial.ended_ms)
            run.json("adapted_modules.json", trial.outcome["modules"])
        adapter = self.shelf.find(trial.number)
        if adapter:
            run.folder(adapter, "adapter")
        run.tags({**_tags(trial), "state": INTERRUPTED if trial.cause == INTERRUPTED else trial.state})
        run.end(_STATUS[trial.state], trial.ended_ms)
        self.shelf.remove(trial.number)


def _tags(trial: TrialRecord) -> dict[str, object]:
    own = {"trial": trial.number, "reason": trial.reason, "cause": trial.cause, **trial.attrs}
    return {name: value for name, value in own.items() if value != ""}
