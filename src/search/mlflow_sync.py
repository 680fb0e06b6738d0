"""MLflow's runs of a study's trials, written from the study's storage alone.

MLflow is a projection of the storage. Each trial is written from its `TrialRecord`, so a run can be written again at
any time: after a crash, after an outage of MLflow, or into an empty store.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from src.cli.output import warn
from src.core.errors import UserError
from src.core.records import Scores
from src.search.adapters import PendingAdapters
from src.search.steering import StudyRequest
from src.search.trial import ENDED, INTERRUPTED, TrialRecord
from src.tracking.client import ABANDONED, Dataset, Run, Tracker
from src.tracking.run_logging import log_history, log_scores

_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
# After a failure MLflow is left alone for so long. A request to an absent server may itself take as long.
_RETRY_AFTER_S = 20.0


@dataclass
class _SyncedRun:
    """The run of a trial, and what is known to be logged there."""

    run: Run
    has_settings: bool = False
    # The number of epochs whose metrics are logged.
    epochs: int = 0
    ended: bool = False


@dataclass(frozen=True)
class TrialRunMetadata:
    """What the runs of all trials of a study have in common."""

    # The beginning of the plots' titles.
    title: str
    tags: Mapping[str, str]
    # The settings of every trial's training. A trial's own parameters replace some of them.
    settings: Mapping[str, object]
    datasets: Sequence[Dataset] = ()


class MlflowSync:
    """Writes trials as child runs of the study's run.

    `show` never fails: a trial that MLflow does not take stays pending and is tried again. As a context, the object
    ends the study's run. If MLflow is unreachable at the end, the run stays open, and a warning tells the user to run
    `--sync`.

    Not thread-safe, and for one process at a time. `StudyPoller` calls it in one thread.

    Raises:
        UserError: MLflow does not list the runs that exist.
    """

    def __init__(
        self, tracker: Tracker, parent: Run, metadata: TrialRunMetadata, pending_adapters: PendingAdapters
    ) -> None:
        self._tracker = tracker
        self._parent = parent
        self._metadata = metadata
        self.pending_adapters = pending_adapters
        # Trials with something that MLflow lacks, by number, each in its latest state.
        self._pending: dict[int, TrialRecord] = {}
        # Tags of the study's run that MLflow lacks.
        self._pending_tags: dict[str, str] = {}
        # When MLflow may be asked again (as `time.monotonic` counts); 0 if the last request succeeded.
        self._retry_at_s = 0.0
        self._synced: dict[int, _SyncedRun] = {}
        self._load_existing()
        # An earlier process may have been killed between the end of a run and the removal of its adapter.
        pending_adapters.tidy(number for number, synced in self._synced.items() if synced.ended)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self._parent.__exit__(kind, error, None)
        except UserError:
            # The search itself is fine, so an unreachable MLflow must not make the command fail.
            self._retry_at_s = math.inf
        if self.unreachable and error is None:
            warn("MLflow lacks a part of this search: run the same command with --sync once MLflow answers")

    @property
    def unreachable(self) -> bool:
        """Whether MLflow refused the last request."""
        return self._retry_at_s > 0

    def show(self, trial: TrialRecord) -> None:
        """Write the state of a trial, and all pending ones."""
        # A trial gets its parameters one by one and then its worker. Before that, its parameters may not be complete,
        # and MLflow does not let a parameter change.
        if self.has(trial) or (trial.state == "running" and "worker" not in trial.attrs):
            return
        self._pending[trial.number] = trial
        self._try_pending()

    def show_requests(self, requests: Sequence[StudyRequest]) -> None:
        """Write a person's requests about the search as tags of the study's run."""
        self._pending_tags = {f"request_{number}": str(request) for number, request in enumerate(requests, start=1)}
        self._try_pending()

    def flush(self) -> None:
        """Write all pending trials if MLflow takes them now, and remove duplicate runs."""
        self._retry_pending(reload=True)

    def has(self, trial: TrialRecord) -> bool:
        """Return whether MLflow has everything about a trial. A waiting trial has no run."""
        return trial.state == "waiting" or (trial.number in self._synced and self._synced[trial.number].ended)

    def require_all(self) -> None:
        """Raise `UserError` if MLflow lacks something."""
        if self._pending or self._pending_tags:
            raise UserError(
                f"{len(self._pending)} trials are missing in MLflow, which does not take them now: try again"
            )

    def run_id(self, number: int) -> str:
        """Return the id of a trial's run; empty if MLflow has none yet."""
        return self._synced[number].run.id if number in self._synced else ""

    def _try_pending(self) -> None:
        if time.monotonic() >= self._retry_at_s:
            # After an outage nobody knows which of the last requests were carried out.
            self._retry_pending(reload=self.unreachable)

    def _retry_pending(self, *, reload: bool) -> None:
        """Write all pending trials. On an error, stop and wait for `_RETRY_AFTER_S`."""
        try:
            if reload:
                self._load_existing()
            if self._pending_tags:
                self._parent.tags(self._pending_tags)
                self._pending_tags = {}
            for number in list(self._pending):
                # The trial moves to the end of the queue first. If MLflow refuses this trial alone, the next try
                # writes the others.
                trial = self._pending.pop(number)
                self._pending[number] = trial
                self._write(trial)
                del self._pending[number]
            if self.unreachable:
                warn("MLflow answers again: the missing runs have been logged")
            self._retry_at_s = 0.0
        except UserError as error:
            if not self.unreachable:  # warn once an outage
                warn(f"{error}; the search goes on, and the missing runs are logged later")
            self._retry_at_s = time.monotonic() + _RETRY_AFTER_S

    def _load_existing(self) -> None:
        """Read the trials' runs from MLflow, and remove duplicates."""
        known = {synced.run.id: synced for synced in self._synced.values()}
        runs: dict[int, _SyncedRun] = {}
        for child in self._tracker.children(self._parent.id):
            number = int(child.tags["trial"])
            # The tag `state` is written last. A run without it, or abandoned, may lack anything, and is written again
            # from the start: MLflow keeps an equal metric or parameter once.
            ended = child.tags.get("state", ABANDONED) != ABANDONED and not child.running
            synced = known.get(child.id) or _SyncedRun(self._tracker.reopen(child.id), ended=ended)
            if number in runs:
                # MLflow's client repeats a request whose answer was lost, and so can create a run twice.
                duplicates = [runs[number], synced]
                duplicates.sort(key=lambda run: (run.ended, run.has_settings))
                self._tracker.remove(duplicates[0].run.id)
                synced = duplicates[1]
            runs[number] = synced
        self._synced = runs

    def _write(self, trial: TrialRecord) -> None:
        """Write what a trial's run lacks. Whatever is cut short is written again by the next call."""
        synced = self._synced.get(trial.number) or self._create(trial)
        if not synced.has_settings:
            synced.run.inputs(self._metadata.datasets)
            synced.run.json("settings.json", {**self._metadata.settings, **trial.params})
            # Only searched settings are parameters: the others are equal in all trials, and would hide them in tables.
            synced.run.params(trial.params)
            synced.has_settings = True
        for row in trial.history[synced.epochs :]:
            metrics = {name: value for name, value in row.items() if name not in ("epoch", "at_ms")}
            synced.run.metrics(metrics, step=int(row["epoch"]), at_ms=int(row["at_ms"]))
            synced.epochs += 1
        if trial.state in ENDED:
            self._end(synced.run, trial)
            synced.ended = True

    def _create(self, trial: TrialRecord) -> _SyncedRun:
        tags = {**self._metadata.tags, **_tags(trial)}
        run = self._tracker.run(f"trial {trial.number}", parent=self._parent.id, tags=tags, began_ms=trial.began_ms)
        synced = _SyncedRun(run)
        self._synced[trial.number] = synced
        return synced

    def _end(self, run: Run, trial: TrialRecord) -> None:
        title = f"{self._metadata.title}, trial {trial.number}"
        log_history(run, trial.history, title)
        if trial.outcome:
            scores = Scores(**trial.outcome["scores"])
            log_scores(run, scores, trial.outcome["report"], f"{title}, validation", "best_val", trial.ended_ms)
            sizes = {"best_epoch": trial.outcome["best_epoch"], "parameters": trial.outcome["parameters"]}
            run.metrics(sizes, at_ms=trial.ended_ms)
            run.json("adapted_modules.json", trial.outcome["modules"])
        adapter = self.pending_adapters.find(trial.number)
        if adapter:
            run.folder(adapter, "adapter")
        # The tag `state` and then the status come last, so that they vouch for all the rest (see `_load_existing`).
        state = INTERRUPTED if trial.cause == INTERRUPTED else trial.state
        run.tags({**_tags(trial), "state": state})
        run.end(_STATUS[trial.state], trial.ended_ms)
        # Only now is the copy on disk superfluous.
        self.pending_adapters.remove(trial.number)


def _tags(trial: TrialRecord) -> dict[str, object]:
    tags = {"trial": trial.number, "reason": trial.reason, "cause": trial.cause, **trial.attrs}
    return {name: value for name, value in tags.items() if value != ""}
