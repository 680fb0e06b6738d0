"""What a command says and how it ends: one clear line for each error, bars and tables for what takes time.

Results go to standard output, all else to standard error. Nothing moves where standard error is no terminal.
"""

import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

import click

from src.core.config import Setting
from src.core.errors import Refusal, unknown
from src.services.studies import FINISHED, TrialRecord

if TYPE_CHECKING:
    import rich.progress
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table

INTERRUPTED = 130
_PLAIN_WIDTH = 120
# Lines of a terminal that a board needs besides its trials: title, heads, rules and bar.
_BOARD_FRAME = 8
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def command(*, example: str = "", **attrs: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """`click.command` whose errors are one line each on standard error.

    Exit codes: that of a `Refusal`, 2 for misuse, 1 for an error of the operating system, 130 for an interruption.

    Args:
        example: a command line, shown at the end of the help.
        attrs: handed on to `click.command`.
    """
    if example:
        attrs["epilog"] = f"\b\nExample:\n  {example}"
    settings = {"show_default": True, "max_content_width": _PLAIN_WIDTH}
    return click.command(cls=_Command, context_settings=settings, **attrs)


def model_option(names: Collection[str]) -> Decorator:
    """The required option --model, one of `names`."""

    def known(context: click.Context, option: click.Parameter, given: str) -> str:
        if given not in names:
            raise unknown("model", given, names)
        return given

    return click.option("--model", required=True, callback=known, help=f"One of {', '.join(names)}.")


def say(text: str) -> None:
    """Print a line of results."""
    # Named, for click would look behind what a live table puts in the stream's place, and write across the table.
    click.echo(text, file=sys.stdout)


def warn(text: str) -> None:
    """Print a line about something that deserves attention and stops nothing."""
    click.echo(f"warning: {text}", file=sys.stderr)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; numbers stand to the right, floats with four decimals, None as a dash."""
    _console(error=False).print(make_table(title, columns, rows))


def make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> "Table":
    """A table to be printed, or shown while it changes."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float | None) for row in rows)
        made.add_column(column, justify="right" if numeric else "left")
    for row in rows:
        made.add_row(*map(_cell, row))
    return made


class Progress:
    """A bar that moves. Made by `progress`."""

    def __init__(self, bar: "rich.progress.Progress", task: "rich.progress.TaskID", unit: str) -> None:
        self._bar = bar
        self._task = task
        self._unit = unit

    def advance(self, n: int = 1) -> None:
        """Say that `n` more units are done."""
        self._bar.advance(self._task, n)
        task = self._bar.tasks[self._task]
        if task.elapsed:
            self._bar.update(self._task, rate=f"{task.completed / task.elapsed:.3g} {self._unit}/s")

    def note(self, text: str) -> None:
        """Show a few words behind the bar, in place of earlier ones."""
        self._bar.update(self._task, note=text)


@contextmanager
def progress(total: int | None, label: str, unit: str = "it") -> Iterator[Progress]:
    """Show how far `total` units of work have come (None: unknown), how fast, and how long it will take."""
    from rich import progress as parts

    bar = parts.Progress(
        parts.TextColumn("{task.description}"),
        parts.BarColumn(),
        parts.MofNCompleteColumn(),
        parts.TextColumn("{task.fields[rate]}"),
        parts.TimeRemainingColumn(elapsed_when_finished=True),
        parts.TextColumn("{task.fields[note]}"),
        console=_console(error=True),
        disable=not sys.stderr.isatty(),
        redirect_stdout=sys.stdout.isatty(),
    )
    with bar:
        yield Progress(bar, bar.add_task(label, total=total, rate="", note=""), unit)


class TrialBoard:
    """The trials of a study while they run: a table and a bar, or a line for each that ends where nothing may move.

    Args:
        title: what is searched.
        total: the trials that the study is to finish.
        done: those finished before.
        score: the metric of `epoch` that the trials are compared by.
    """

    def __init__(self, title: str, total: int, done: int = 0, score: str = "val_macro_f1") -> None:
        self._title = title
        self._total = total
        self._done = self._done_before = done
        self._score = score
        self._rows: dict[int, TrialRecord] = {}
        self._begun_s: dict[int, float] = {}
        self._opened_s = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.live import Live

            console = _console(error=True)
            self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=sys.stdout.isatty())
            self._live.start()
            self._show()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._live:
            self._live.stop()
            if self._rows:
                _console(error=False).print(self._table(len(self._rows)))

    def start(self, number: int, params: Mapping[str, Setting]) -> None:
        """Say that a trial runs, and with which settings."""
        self._begun_s[number] = time.monotonic()
        self._rows[number] = TrialRecord(number, "running", dict(params), None, 0, 0.0, "", {})
        self._show()

    def epoch(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Say what an epoch of a trial, counted from 1, has given."""
        if number not in self._rows:
            self.start(number, {})
        seconds = time.monotonic() - self._begun_s[number]
        self._rows[number] = replace(
            self._rows[number], epochs=epoch, seconds=seconds, value=metrics.get(self._score, self._rows[number].value)
        )
        self._show()

    def done(self, row: TrialRecord) -> None:
        """Say how a trial ended."""
        self._rows[row.number] = row
        self._done += row.state in FINISHED
        if self._live:
            self._show()
        else:
            say(f"[{self._done}/{self._total}] {_describe(row)}")

    def _show(self) -> None:
        if self._live:
            from rich.console import Group

            rows = max(1, self._live.console.height - _BOARD_FRAME)
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
    settings = [_setting(row.params[name]) if name in row.params else "" for name in names]
    return [row.number, row.state, *settings, row.value, row.epochs, round(row.seconds), row.reason]


def _describe(row: TrialRecord) -> str:
    settings = ", ".join(f"{name} {_setting(value)}" for name, value in row.params.items())
    score = f"macro-F1 {_cell(row.value)}, {row.epochs} epochs, {row.seconds:.1f} s"
    return f"trial {row.number} {row.state}: {score} ({settings}){f': {row.reason}' if row.reason else ''}"


def _setting(value: Setting) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class _Command(click.Command):
    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except Refusal as refusal:
            _fail(str(refusal), refusal.exit_code)
        except click.UsageError as error:
            _fail(f"{error.format_message()} Try --help.", error.exit_code)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except Refusal as refusal:
            _fail(str(refusal), refusal.exit_code)
        except KeyboardInterrupt:
            _fail("interrupted", INTERRUPTED)
        except BrokenPipeError:
            # Whoever read the output has seen enough; click ends in silence.
            raise
        except OSError as error:
            _fail(": ".join(str(part) for part in (error.strerror or error, error.filename) if part), 1)


def _fail(message: str, exit_code: int) -> NoReturn:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    raise click.exceptions.Exit(exit_code)


@cache
def _console(error: bool) -> "Console":
    # One for each stream, so that a bar within a live table is drawn below it and not across it.
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    return Console(
        stderr=error,
        width=None if stream.isatty() else _PLAIN_WIDTH,
        markup=False,
        emoji=False,
        highlight=False,
    )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 10_000 else f"{value:.1e}"
