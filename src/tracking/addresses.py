"""Error messages about addresses of databases and servers: one line, without passwords."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

from src.core.errors import UsageError, UserError, first_line
from src.core.paths import sqlite_file

_HIDDEN = "***"


@contextmanager
def database_errors_as_user_errors(url: str, what: str, option: str, takes: str) -> Iterator[None]:
    """Turn errors of SQLAlchemy into a `UserError` of one line while a database is opened.

    Args:
        url: the SQLAlchemy URL of the database.
        what: a name for the content of the database, such as "the MLflow store".
        option: the option or variable by which the user gives the URL.
        takes: the form of a valid URL.

    Raises:
        UsageError: the URL is not valid.
        UserError: the database is missing or does not answer.
    """
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        yield
    except (ArgumentError, ImportError) as error:
        raise UsageError(f"{option} takes {takes}: {first_line_without_password(error, url)}") from error
    except ValueError as error:
        # The message quotes the text in the port's place, which is a piece of a password that contains a slash.
        remedy = "the port is not a number, or the password is not percent-encoded"
        raise UsageError(f"{option} takes {takes}: {remedy}") from error
    except (SQLAlchemyError, RuntimeError) as error:
        reason = first_line_without_password(error, url)
        database = sqlite_file(url)
        if database:
            raise UserError(f"{what} {database} cannot be opened: {reason}") from error
        raise UserError(f"{what} on the server cannot be opened: {reason}; start it, or change {option}") from error


def first_line_without_password(error: BaseException, url: str = "") -> str:
    """Return the first line of an error's message without the password of `url`."""
    return without_password(first_line(error), url)


def without_password(text: str, url: str = "") -> str:
    """Hide user names and passwords in a text: those of `url`, and those of every address in the text."""
    for secret in sorted(_secrets(url), key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    # Behind three slashes stands a path and no host.
    return re.sub(r"(?<=[^/]//)(?!/)[^\s'\"]*@", f"{_HIDDEN}@", text)


def _secrets(url: str) -> set[str]:
    """Return the secret parts of an address, both percent-encoded and decoded."""
    # The pattern accepts mistyped addresses that lack a slash or the colon.
    match = re.match(r"(?:[\w+.-]*:)?/*(.*)@", url)
    user, _, password = match[1].partition(":") if match else ("", "", "")
    # A user name alone may be any word of the message. `without_password` hides it within addresses.
    secrets = [*([f"{user}:{password}", password] if password else []), *re.findall(r"password=([^&]*)", url)]
    return {form for secret in secrets for form in (secret, unquote(secret)) if form}
