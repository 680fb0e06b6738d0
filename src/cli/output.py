"""Output of commands: lines, tables and progress bars.

Results go to standard output, everything else to standard error. Bars are shown only if standard error is a terminal.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import rich.progress
    from rich.console import Console
    from rich.table import Table

PLAIN_WIDTH = 120


def say(text: str) -> None:
    """Print a line of results."""
    # rich replaces sys.stdout during a live table. Without `file`, click writes to the original, across the table.
    click.echo(text, file=sys.stdout)


def warn(text: str) -> None:
    """Print a warning."""
    click.echo(f"warning: {text}", file=sys.stderr)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table. Columns of numbers are right-aligned, and `cell` formats values."""
    console(error=False).print(make_table(title, columns, rows))


def make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> "Table":
    """Return a table to print, or to show live."""
    from rich import box
    from rich.table import Table

    rich_table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float | None) for row in rows)
        rich_table.add_column(column, justify="right" if numeric else "left")
    for row in rows:
        rich_table.add_row(*map(cell, row))
    return rich_table


class Progress:
    """A progress bar. Use `progress` to open one."""

    def __init__(self, bar: "rich.progress.Progress", task: "rich.progress.TaskID", unit: str) -> None:
        self._bar = bar
        self._task = task
        self._unit = unit

    def advance(self, n: int = 1) -> None:
        """Advance the bar by `n` units."""
        self._bar.advance(self._task, n)
        task = self._bar.tasks[self._task]
        if task.elapsed:
            self._bar.update(self._task, rate=f"{task.completed / task.elapsed:.3g} {self._unit}/s")

    def note(self, text: str) -> None:
        """Replace the text behind the bar."""
        self._bar.update(self._task, note=text)


@dataclass
class EpochBar:
    """A training callback that advances a bar by epochs, and shows the label and the last validation score."""

    bar: Progress
    label: str
    epochs: int = 0

    def on_batch(self) -> None:
        """Do nothing."""

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Show the epoch, and return True: the training goes on."""
        self.epochs = epoch
        self.bar.note(f"{self.label}, macro-F1 {metrics['val_macro_f1']:.4f}")
        self.bar.advance()
        return True


@contextmanager
def progress(total: int | None, label: str, unit: str = "it") -> Iterator[Progress]:
    """Show a progress bar with its rate and remaining time; `total` None means unknown."""
    from rich import progress as parts

    bar = parts.Progress(
        parts.TextColumn("{task.description}"),
        parts.BarColumn(),
        parts.MofNCompleteColumn(),
        parts.TextColumn("{task.fields[rate]}"),
        parts.TimeRemainingColumn(elapsed_when_finished=True),
        parts.TextColumn("{task.fields[note]}"),
        console=console(error=True),
        disable=not sys.stderr.isatty(),
        redirect_stdout=sys.stdout.isatty(),
    )
    with bar:
        yield Progress(bar, bar.add_task(label, total=total, rate="", note=""), unit)


def require_utf8(context: click.Context) -> click.Context:
    """Return the context if all text arguments are in UTF-8. Paths may hold other bytes.

    Raises:
        BadParameter: an argument is not in UTF-8.
    """
    for param in context.command.params:
        value = context.params.get(param.name or "")
        for text in value if isinstance(value, tuple) else [value]:
            if isinstance(text, str) and text.encode("utf-8", "ignore").decode() != text:
                shown = os.fsencode(text).decode("utf-8", "replace")
                raise click.BadParameter(f"{shown!r} is not in UTF-8.", context, param)
    return context


@cache
def console(error: bool) -> "Console":
    """Return the console of standard output, or of standard error.

    A stream has one console, so that rich draws a bar below a live table and not across it.
    """
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    return Console(
        stderr=error,
        width=None if stream.isatty() else PLAIN_WIDTH,
        markup=False,
        emoji=False,
        highlight=False,
    )


def cell(value: object) -> str:
    """Format a value for a table: floats with four decimals, None as a dash."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:z.4f}" if value == 0 or 0.001 <= abs(value) < 10_000 else f"{value:.1e}"
