"""The table of a running study's trials on the screen."""

import sys
import time
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from src.cli.output import cell, console, make_table, say
from src.core.training_config import display_value
from src.search.steering import StudyRequest, pause_among
from src.search.trial import ENDED, REQUEST, STOP_REQUEST, TrialRecord

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table

# Lines of a terminal that the table needs besides its rows: title, column names, rules and progress bar.
_FRAME = 8


class LiveTrialTable:
    """A table with a progress bar on a terminal. Without a terminal: one line for each trial that ends.

    Args:
        title: the table's title.
        total: the number of trials to finish.
        before: the trials so far. Ended ones are counted and not shown.
        requests: a person's requests so far about the search. `total` contains them.
    """

    def __init__(
        self, title: str, total: int, before: Collection[TrialRecord] = (), requests: Sequence[StudyRequest] = ()
    ) -> None:
        self._title = title
        self._total = total
        self._ended = {trial.number for trial in before if trial.state in ENDED}
        self._num_before = sum(trial.finished for trial in before)
        self._num_finished = self._num_before
        self._requests = tuple(requests)
        self._trials: dict[int, TrialRecord] = {}
        self._opened_s = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.live import Live

            self._live = Live(
                console=console(error=True), auto_refresh=False, transient=True, redirect_stdout=sys.stdout.isatty()
            )
            self._live.start()
            self._draw()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._live:
            self._live.stop()
            if self._trials:
                console(error=False).print(self._table(len(self._trials)))

    def show(self, trial: TrialRecord) -> None:
        """Show the state of a trial."""
        if trial.number in self._ended or trial.state == "waiting":
            return
        self._trials[trial.number] = trial
        if trial.state in ENDED:
            self._ended.add(trial.number)
            self._num_finished += trial.finished
            if not self._live:
                say(f"[{self._num_finished}/{self._total}] {_describe(trial)}")
        self._draw()

    def show_requests(self, requests: Sequence[StudyRequest]) -> None:
        """Show the requests that are new among all requests about the search."""
        new = [request for request in requests if request not in self._requests]
        self._requests = tuple(requests)
        self._total += sum(request.trials for request in new)
        for request in new:
            say(f"Asked by {request}")
        self._draw()

    def _draw(self) -> None:
        if self._live:
            from rich.console import Group

            max_rows = max(1, self._live.console.height - _FRAME)
            self._live.update(Group(self._table(max_rows), self._bar()), refresh=True)

    def _table(self, max_rows: int) -> "Table":
        trials = list(self._trials.values())[-max_rows:]
        names = list(dict.fromkeys(name for trial in trials for name in trial.params))
        columns = ["trial", "state", *names, "macro-F1", "epochs", "seconds", "remarks"]
        return make_table(self._title, columns, [_row(trial, names) for trial in trials])

    def _bar(self) -> "RenderableType":
        from rich.columns import Columns
        from rich.progress_bar import ProgressBar

        bar = ProgressBar(total=self._total, completed=self._num_finished, width=40)
        pause = pause_among(self._requests)
        rest = f", {pause}" if pause else self._time_left()
        return Columns([bar, f"{self._num_finished}/{self._total} trials{rest}"])

    def _time_left(self) -> str:
        num_finished_here = self._num_finished - self._num_before
        if not num_finished_here or self._num_finished >= self._total:
            return ""
        seconds = (time.monotonic() - self._opened_s) / num_finished_here * (self._total - self._num_finished)
        return f", about {seconds / 60:.0f} min left" if seconds > 90 else f", about {seconds:.0f} s left"


def _row(trial: TrialRecord, names: Sequence[str]) -> list[object]:
    settings = [display_value(trial.params[name]) if name in trial.params else "" for name in names]
    seconds = trial.seconds or (time.time() - trial.began_ms / 1000 if trial.began_ms else 0)
    return [trial.number, trial.state, *settings, trial.value, trial.epochs, round(seconds), _remarks(trial)]


def _describe(trial: TrialRecord) -> str:
    settings = ", ".join(f"{name} {display_value(value)}" for name, value in trial.params.items())
    score = f"macro-F1 {cell(trial.value)}, {trial.epochs} epochs, {trial.seconds:.1f} s"
    remarks = f": {_remarks(trial)}" if _remarks(trial) else ""
    return f"trial {trial.number} {trial.state}: {score} ({settings}){remarks}"


def _remarks(trial: TrialRecord) -> str:
    """Return why a trial ended, and what a person asked about it."""
    stop = f"ends by {trial.attrs[STOP_REQUEST]}" if trial.state == "running" and STOP_REQUEST in trial.attrs else ""
    asked = f"asked for by {trial.attrs[REQUEST]}" if REQUEST in trial.attrs else ""
    return "; ".join(filter(None, [trial.reason, stop, asked]))
