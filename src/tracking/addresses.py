"""Addresses of databases and servers: what is wrong with one is said in a line, and never with its password."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

from src.core.errors import UsageError, UserError
from src.core.locks import sqlite_file

_HIDDEN = "***"


@contextmanager
def database_errors_as_user_errors(url: str, what: str, option: str, takes: str) -> Iterator[None]:
    """Say in one line why a database cannot be opened.

    Args:
        url: its SQLAlchemy URL.
        what: what is kept in it.
        option: where the user names it.
        takes: which addresses may stand there.

    Raises:
        UsageError: the URL is none.
        UserError: the database does not answer, or is not there.
    """
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        yield
    except (ArgumentError, ImportError) as error:
        raise UsageError(f"{option} takes {takes}: {first_line_without_password(error, url)}") from error
    except ValueError as error:
        # It quotes what stands in the port's place: a piece of the password, where that has a slash in it.
        remedy = "its port is no number, or its password not percent-encoded"
        raise UsageError(f"{option} takes {takes}: {remedy}") from error
    except (SQLAlchemyError, RuntimeError) as error:
        database, said = sqlite_file(url), first_line_without_password(error, url)
        if database:
            raise UserError(f"{what} {database} cannot be opened: {said}") from error
        raise UserError(f"{what} on the server cannot be opened: {said}; start it, or change {option}") from error


def first_line_without_password(error: BaseException, url: str = "") -> str:
    """The first line of what an error says, without the password of `url`."""
    return without_password(str(error).splitlines()[0], url) if str(error) else type(error).__name__


def without_password(text: str, url: str = "") -> str:
    """`text` without the name and password of `url`, and without those of any address that stands in it."""
    for secret in sorted(_secrets(url), key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return re.sub(r"(?<=//)[^\s'\"]*@", f"{_HIDDEN}@", text)


def _secrets(url: str) -> set[str]:
    """The parts of an address that nobody may see, as they stand there and as they are meant."""
    # A mistyped address may lack a slash or its colon.
    named = re.match(r"(?:[\w+.-]*:)?/*(.*)@", url)
    user = named[1] if named else ""
    passwords = [user.partition(":")[2], *re.findall(r"password=([^&]*)", url)]
    return {form for secret in (user, *passwords) for form in (secret, unquote(secret)) if form}
