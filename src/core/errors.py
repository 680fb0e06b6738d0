"""The errors that a user sees: one clear line each, and the exit code that goes with it."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """The work cannot be done; the message says what is wrong and what to do. Exit code 1."""

    exit_code = 1


class UsageError(UserError):
    """The user asked for something that does not exist or makes no sense. Exit code 2."""

    exit_code = 2


class InfeasibleAnalysis(UserError):
    """These posts do not allow an analysis, and the message says why: it stands in its place in the report."""


class DivergenceError(UserError):
    """A training's loss is no longer a number: its settings are to blame."""


class StopRequested(Exception):
    """The user, or the machine, wants the work to end now: nothing is wrong, and what is finished stays.

    `exit_code` is 128 and the number of the signal that said so, as shells have it.
    """

    def __init__(self, message: str = "stopped", exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def unknown(kind: str, given: str, known: Iterable[str]) -> UsageError:
    """An error for a name that is not in a list, with the nearest name or the whole list."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
    return UsageError(f"unknown {kind} {given!r}; {hint}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return str(error).partition("\n")[0] or type(error).__name__
