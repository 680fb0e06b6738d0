"""Turns between processes of one machine. The kernel keeps them, so a killed holder lets go by itself."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.core.errors import Refusal


@contextmanager
def exclusive(lock_file: Path, what: str) -> Iterator[None]:
    """Do something that one process at a time may do; a second one is turned away at once.

    The file stays behind: removing it would let a third process lock a new file of the same name.

    Raises:
        Refusal: another process is inside; the message names its process id and `what` it is doing.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read() or "unknown"
            raise Refusal(f"another process (pid {holder}) is running {what}; wait or stop it") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def turn(lock_file: Path) -> Iterator[None]:
    """Do something short that one process at a time may do, after those that came before."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("a", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Said aloud, for a process that was started meanwhile would keep the lock for as long as it lives.
            fcntl.flock(file, fcntl.LOCK_UN)


def sqlite_file(url: str) -> Path | None:
    """The database file of an SQLAlchemy URL (three slashes: relative, four: absolute); None if it is no SQLite's."""
    scheme, found, path = url.partition(":///")
    return Path(path) if found and scheme.startswith("sqlite") else None
