"""The errors that a user sees: one clear line each, and the exit code that goes with it."""

import difflib
from collections.abc import Iterable


class Refusal(Exception):
    """The work cannot be done; the message says what is wrong and what to do. Exit code 1."""

    exit_code = 1


class UsageRefusal(Refusal):
    """The user asked for something that does not exist or makes no sense. Exit code 2."""

    exit_code = 2


class Pruned(Exception):
    """Raised by a reporter inside a trial that is not worth finishing."""


def unknown(kind: str, given: str, known: Iterable[str]) -> UsageRefusal:
    """An error for a name that is not in a list, with the nearest name or the whole list."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
    return UsageRefusal(f"unknown {kind} {given!r}; {hint}")
