"""Output of commands: lines, tables, progress bars.

Results go to standard output, all else to standard error. Nothing moves where standard error is no terminal.
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
    # Named, for click would look behind what a live table puts in the stream's place, and write across the table.
    click.echo(text, file=sys.stdout)


def warn(text: str) -> None:
    """Print a line about something that deserves attention and stops nothing."""
    click.echo(f"warning: {text}", file=sys.stderr)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; numbers stand to the right, floats with four decimals, None as a dash."""
    console(error=False).print(make_table(title, columns, rows))


def make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> "Table":
    """A table to be printed, or shown while it changes."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float | None) for row in rows)
        made.add_column(column, justify="right" if numeric else "left")
    for row in rows:
        made.add_row(*map(cell, row))
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


@dataclass
class EpochBar:
    """A training's reporter that shows its epochs on a bar, with their validation score behind the `label`."""

    bar: Progress
    label: str
    epochs: int = 0

    def on_step(self) -> None:
        """Says nothing."""

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Show one more epoch, and have no objection."""
        self.epochs = epoch
        self.bar.note(f"{self.label}, macro-F1 {metrics['val_macro_f1']:.4f}")
        self.bar.advance()
        return True


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
        console=console(error=True),
        disable=not sys.stderr.isatty(),
        redirect_stdout=sys.stdout.isatty(),
    )
    with bar:
        yield Progress(bar, bar.add_task(label, total=total, rate="", note=""), unit)


def _in_utf8(context: click.Context) -> click.Context:
    """Return the context, unless an argument holds bytes that are no text; paths may, and come as `Path`."""
    for param in context.command.params:
        value = context.params.get(param.name or "")
        for text in value if isinstance(value, tuple) else [value]:
            if isinstance(text, str) and text.encode("utf-8", "ignore").decode() != text:
                shown = os.fsencode(text).decode("utf-8", "replace")
                raise click.BadParameter(f"{shown!r} is not in UTF-8.", context, param)
    return context


@cache
def console(error: bool) -> "Console":
    """The console of standard output, or of standard error.

    One for each stream, so that a bar within a live table is drawn below it and not across it.
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
    """How a value stands in a table."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:z.4f}" if value == 0 or 0.001 <= abs(value) < 10_000 else f"{value:.1e}"
