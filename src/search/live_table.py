"""The trials of a study on a screen, as its storage has them."""

import sys
import time
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from src.cli.output import cell, console, make_table, say
from src.core.training_config import display_value
from src.search.trial import ENDED, TrialRecord

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table

# Lines of a terminal that a board needs besides its trials: title, heads, rules and bar.
_FRAME = 8


class LiveTrialTable:
    """The trials of a study while they run: a table and a bar, or a line for each that ends where nothing may move.

    Args:
        title: what is searched.
        total: the trials that the study is to finish.
        before: the trials so far; those that have ended are not shown again.
    """

    def __init__(self, title: str, total: int, before: Collection[TrialRecord] = ()) -> None:
        self._title = title
        self._total = total
        self._ended = {trial.number for trial in before if trial.state in ENDED}
        self._done = self._done_before = sum(trial.finished for trial in before)
        self._rows: dict[int, TrialRecord] = {}
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
            if self._rows:
                console(error=False).print(self._table(len(self._rows)))

    def show(self, trial: TrialRecord) -> None:
        """Show how a trial stands now."""
        if trial.number in self._ended or trial.state == "waiting":
            return
        self._rows[trial.number] = trial
        if trial.state in ENDED:
            self._ended.add(trial.number)
            self._done += trial.finished
            if not self._live:
                say(f"[{self._done}/{self._total}] {_describe(trial)}")
        self._draw()

    def _draw(self) -> None:
        if self._live:
            from rich.console import Group

            rows = max(1, self._live.console.height - _FRAME)
            self._live.update(Group(self._table(rows), self._bar()), refresh=True)

    def _table(self, most_rows: int) -> "Table":
        rows = list(self._rows.values())[-most_rows:]
        names = list(dict.fromkeys(name for row in rows for name in row.params))
        columns = ["trial", "state", *names, "macro-F1", "epochs", "seconds", "reason"]
        return make_table(self._title, columns, [_board_row(row, names) for row in rows])

    def _bar(self) -> "RenderableType":
        from rich.columns import Columns
        from rich.progress_bar import ProgressBar

        bar = ProgressBar(total=self._total, completed=self._done, width=40)
        return Columns([bar, f"{self._done}/{self._total} trials{self._time_left()}"])

    def _time_left(self) -> str:
        ended = self._done - self._done_before
        if not ended or self._done >= self._total:
            return ""
        seconds = (time.monotonic() - self._opened_s) / ended * (self._total - self._done)
        return f", about {seconds / 60:.0f} min left" if seconds > 90 else f", about {seconds:.0f} s left"


def _board_row(row: TrialRecord, names: Sequence[str]) -> list[object]:
    settings = [display_value(row.params[name]) if name in row.params else "" for name in names]
    seconds = row.seconds or (time.time() - row.began_ms / 1000 if row.began_ms else 0)
    return [row.number, row.state, *settings, row.value, row.epochs, round(seconds), row.reason]


def _describe(row: TrialRecord) -> str:
    settings = ", ".join(f"{name} {display_value(value)}" for name, value in row.params.items())
    score = f"macro-F1 {cell(row.value)}, {row.epochs} epochs, {row.seconds:.1f} s"
    return f"trial {row.number} {row.state}: {score} ({settings}){f': {row.reason}' if row.reason else ''}"
