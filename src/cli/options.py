"""Options, errors and exit codes of commands."""

import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NoReturn

import click

from src.cli.garbage import collect_rarely
from src.cli.output import PLAIN_WIDTH, require_utf8
from src.core.errors import StopRequested, UsageError, UserError, first_line, is_out_of_memory, unknown
from src.core.training_config import Setting

INTERRUPTED = 130


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def command(*, example: str = "", **attrs: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a click command whose errors are one line each on standard error.

    Exit codes: a `UserError`'s own, 2 for misuse, 1 for an error of the operating system or too little memory, 130 for
    an interruption.

    Args:
        example: a command line for the end of the help.
        attrs: arguments of `click.command`.
    """
    if example:
        attrs["epilog"] = f"\b\nExample:\n  {example}"
    settings = {"show_default": True, "max_content_width": PLAIN_WIDTH}
    return click.command(cls=_Command, context_settings=settings, **attrs)


def model_option(names: Collection[str]) -> Decorator:
    """Return the required option --model, whose value is one of `names`."""

    def check(context: click.Context, option: click.Parameter, value: str) -> str:
        if value not in names:
            raise unknown("model", value, names)
        return value

    return click.option("--model", required=True, callback=check, help=f"One of {', '.join(names)}.")


def option_group(title: str) -> Callable[..., Decorator]:
    """Return a `click.option` whose options stand under a title of their own in the help."""
    return partial(click.option, cls=_GroupedOption, title=title)


class _GroupedOption(click.Option):
    def __init__(self, *args: Any, title: str, **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.title = title


def column_option(roles: Collection[str]) -> Decorator:
    """Return the option --column ROLE=NAME, which may be repeated. Its value maps roles to names of columns."""

    def parse(context: click.Context, option: click.Parameter, values: Sequence[str]) -> dict[str, str]:
        names: dict[str, str] = {}
        for role, _, name in (value.partition("=") for value in values):
            if role not in roles or not name:
                raise UsageError(f"--column {role}={name}: give {', '.join(roles)} and the column that holds it")
            if role in names:
                raise UsageError(f"--column: {role} has two columns, {names[role]} and {name}")
            names[role] = name
        return names

    return click.option(
        "--column",
        "columns",
        multiple=True,
        callback=parse,
        metavar="ROLE=NAME",
        help=f"The column of a table that holds the {', '.join(roles)}, such as text=tweet.",
    )


def assignments(text: str, option: str) -> dict[str, str]:
    """Return the values in NAME=VALUE,... by name, as text.

    Raises:
        UsageError: a part of the text is no assignment, or a name has two values. The message begins with `option`.
    """
    values: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name:
            raise UsageError(f"{option}: {part!r} is no setting; write NAME=VALUE, such as rank=16,lr=3e-4")
        if name in values:
            raise UsageError(f"{option}: {name} has two values")
        values[name] = value
    return values


def typed(text: str) -> Setting | bool:
    """Return the switch or the number that a text names, or the text if it names none."""
    if text in _SWITCHES:
        return _SWITCHES[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


class _Command(click.Command):
    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(context):
            record = param.get_help_record(context)
            if record and not isinstance(param, click.Argument):
                groups.setdefault(getattr(param, "title", "Options"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        collect_rarely()
        try:
            return require_utf8(super().make_context(*args, **kwargs))
        except UserError as error:
            _fail(str(error), error.exit_code)
        except click.UsageError as error:
            _fail(f"{error.format_message()} Try --help.", error.exit_code)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except UserError as error:
            _fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            _fail("interrupted", INTERRUPTED)
        except StopRequested as request:
            _fail(str(request), request.exit_code)
        except BrokenPipeError:
            # The reader of the output, such as head, has closed it: click then ends without a message.
            raise
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            _fail(f"out of memory: {first_line(error)}; a smaller batch_size, or a machine with more, may do", 1)
        except OSError as error:
            _fail(": ".join(str(part) for part in (error.strerror or error, error.filename) if part), 1)


def _fail(message: str, exit_code: int) -> NoReturn:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    raise click.exceptions.Exit(exit_code)


_SWITCHES = {"true": True, "false": False}


# Seconds of a unit.
_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


_FORM = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+")


def seconds_of(text: str) -> float:
    """Return the seconds of a duration such as 6h, 90m or 1h30m.

    Raises:
        UsageError: the text is no duration.
    """
    if not _FORM.fullmatch(text):
        raise UsageError(f"{text!r} is no length of time: write 6h, 90m, 1h30m or 45s")
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(r"([\d.]+)([dhms])", text))
