"""Errors that a user sees as one line, with their exit codes."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An error of the input or the environment. The message says what is wrong and what to do. Exit code 1."""

    exit_code = 1


class UsageError(UserError):
    """A request for something that does not exist or makes no sense. Exit code 2."""

    exit_code = 2


class InfeasibleAnalysis(UserError):
    """An analysis that these posts do not allow. The report shows the message in its place."""


class DivergenceError(UserError):
    """A training whose loss is no longer a number, because of its settings."""


class OutOfMemory(UserError):
    """A training that the device's memory cannot hold, because of its settings."""


class OutOfSpace(UserError):
    """A disk with too little room for what is to be written."""


class StopRequested(Exception):
    """A request by the user or the machine to end the work now. What is finished stays.

    `exit_code` is 128 plus the number of the signal, as in shells.
    """

    def __init__(self, message: str = "stopped", exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def unknown(kind: str, given: str, known: Iterable[str]) -> UsageError:
    """Return an error for an unknown name that proposes the nearest known name, or lists all."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
    return UsageError(f"unknown {kind} {given!r}; {hint}")


_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is missing: one of Python, or one of torch, which is a RuntimeError."""
    message = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in message for words in _NO_MEMORY)
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return str(error).partition("\n")[0] or type(error).__name__
