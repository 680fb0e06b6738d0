"""Turns between processes of one machine. The kernel keeps them, so a killed holder lets go by itself."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from src.core.errors import UserError
from src.core.paths import ORIGIN


@contextmanager
def try_lock(lock_file: Path, what: str) -> Iterator[None]:
    """Do something that one process at a time may do; a second one is turned away at once.

    Raises:
        UserError: another process is inside; the message names its process id and `what` it is doing.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    # Not in the lock file itself: Windows lets nobody read a locked file.
    holder = lock_file.with_suffix(".pid")
    try:
        lock = FileLock(lock_file).acquire(blocking=False)
    except Timeout as error:
        pid = holder.read_text(encoding="ascii") if holder.exists() else "unknown"
        raise UserError(f"another process (pid {pid}) is running {what}; wait or stop it") from error
    with lock:
        holder.write_text(str(os.getpid()), encoding="ascii")
        yield


@contextmanager
def lock(lock_file: Path) -> Iterator[None]:
    """Do something short that one process at a time may do, after those that came before."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock_file):
        yield


def sqlite_file(url: str) -> Path | None:
    """The database file of an SQLAlchemy URL (three slashes: relative, four: absolute); None if it is no SQLite's."""
    scheme, found, path = url.partition(":///")
    return Path(path) if found and scheme.startswith("sqlite") else None


def at_origin(url: str) -> str:
    """Return an SQLAlchemy URL with a relative SQLite file looked for in `ORIGIN`."""
    file = sqlite_file(url)
    return url if file is None else f"{url.partition(':///')[0]}:///{ORIGIN / file}"
