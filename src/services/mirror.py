"""What MLflow shows of a study: drawn from the study's storage alone, so it can be drawn again at any time."""

import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from src.core.errors import Refusal
from src.core.records import Scores, write_bytes
from src.core.settings import Setting
from src.services.datasets import Dataset
from src.services.logbook import log_history, log_scores
from src.services.terminal import warn
from src.services.tracking import Run, Tracker
from src.services.trials import ENDED, INTERRUPTED, TrialRecord

_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
# A server that went away is asked again after so long; a request to it may itself take as long.
_TRY_AGAIN_S = 20.0


@dataclass(frozen=True)
class Shelf:
    """Adapters of trials that MLflow does not have yet, a folder each, whole or not there."""

    folder: Path

    def put(self, number: int, files: Mapping[str, bytes]) -> None:
        """Keep the files of a trial's adapter."""
        temporary = self.folder / f".{number}.{os.getpid()}"
        try:
            for name, content in files.items():
                write_bytes(temporary / name, content)
            shutil.rmtree(self.folder / str(number), ignore_errors=True)
            temporary.rename(self.folder / str(number))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def find(self, number: int) -> Path | None:
        """The folder with a trial's adapter, if it is here."""
        place = self.folder / str(number)
        return place if place.is_dir() else None

    def remove(self, number: int) -> None:
        """Forget a trial's adapter."""
        shutil.rmtree(self.folder / str(number), ignore_errors=True)

    def tidy(self, numbers: Iterable[int]) -> None:
        """Forget the adapters of these trials, and what a killed process left half-written."""
        for left in [*map(str, numbers), *(path.name for path in self.folder.glob(".*"))]:
            shutil.rmtree(self.folder / left, ignore_errors=True)


@dataclass
class _Shown:
    """A trial as MLflow has it: its run, and what is known to be in there."""

    run: Run
    has_settings: bool = False
    epochs: int = 0
    ended: bool = False


@dataclass(frozen=True)
class Caption:
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


class Mirror:
    """Draws trials as runs below the study's. `show` never fails: what MLflow does not take now, it gets later.

    To be used by one process at a time, and of that by one thread. As a context it ends the study's run, as that itself
    would, but for a search that MLflow has not seen the end of: that is no failure, and `Mirror` says what to do.

    Raises:
        Refusal: MLflow does not say what it has.
    """

    def __init__(self, tracker: Tracker, parent: Run, caption: Caption, shelf: Shelf) -> None:
        self._tracker = tracker
        self._parent = parent
        self._caption = caption
        self.shelf = shelf
        self._pending: dict[int, TrialRecord] = {}
        self._try_again_s = 0.0
        self._shown: dict[int, _Shown] = {}
        self._look_up()
        shelf.tidy(number for number, shown in self._shown.items() if shown.ended)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self._parent.__exit__(kind, error, None)
        except Refusal:
            self._try_again_s = math.inf
        if self.away and error is None:
            warn("MLflow has not all of this search: once it answers, the same command with --sync brings it there")

    @property
    def away(self) -> bool:
        """Whether MLflow did not take what it was given last."""
        return self._try_again_s > 0

    def show(self, trial: TrialRecord) -> None:
        """Draw how a trial stands now, and what could not be drawn before."""
        # A trial gets its settings one by one, and then its worker: before that they are not what it will run with.
        if self.has(trial) or (trial.state == "running" and "worker" not in trial.attrs):
            return
        self._pending[trial.number] = trial
        if time.monotonic() >= self._try_again_s:
            self._catch_up(look=self.away)

    def flush(self) -> None:
        """Draw what could not be drawn before, if MLflow takes it now, and see to it that no trial has two runs."""
        self._catch_up(look=True)

    def has(self, trial: TrialRecord) -> bool:
        """Whether MLflow has all that there will ever be of a trial."""
        return trial.state == "waiting" or (trial.number in self._shown and self._shown[trial.number].ended)

    def require_all(self) -> None:
        """Refuse if something is missing in MLflow."""
        if self._pending:
            raise Refusal(f"{len(self._pending)} trials are missing in MLflow, which does not take them now: try again")

    def run_id(self, number: int) -> str:
        """The run of a trial; empty where MLflow has none yet."""
        return self._shown[number].run.id if number in self._shown else ""

    def _catch_up(self, *, look: bool) -> None:
        try:
            if look:
                self._look_up()
            for number in list(self._pending):
                # To the end of the queue: a trial that MLflow does not take must not be in the way of the others.
                trial = self._pending[number] = self._pending.pop(number)
                self._draw(trial)
                del self._pending[number]
            if self.away:
                warn("MLflow answers again: what was missing there has been logged")
            self._try_again_s = 0.0
        except Refusal as refusal:
            if not self.away:
                warn(f"{refusal}; the search goes on, and what is missing there is logged later")
            self._try_again_s = time.monotonic() + _TRY_AGAIN_S

    def _look_up(self) -> None:
        """Find the runs that there are, whoever made them."""
        mine, found = {shown.run.id: shown for shown in self._shown.values()}, dict[int, _Shown]()
        for child in self._tracker.children(self._parent.id):
            number, ended = int(child.tags["trial"]), "state" in child.tags and not child.running
            # The tag comes last, so a run without it may lack anything; what it has is logged again and kept once.
            shown = mine.get(child.id) or _Shown(self._tracker.reopen(child.id), ended=ended)
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

    def _begin(self, trial: TrialRecord) -> _Shown:
        tags = {**self._caption.tags, **_tags(trial)}
        run = self._tracker.run(f"trial {trial.number}", parent=self._parent.id, tags=tags, began_ms=trial.began_ms)
        self._shown[trial.number] = _Shown(run)
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
