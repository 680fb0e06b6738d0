"""Locks between processes of one machine. The kernel holds them, so a killed process releases its lock."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from src.core.errors import UserError


@contextmanager
def try_lock(lock_file: Path, purpose: str) -> Iterator[None]:
    """Hold a lock for the block, or fail at once if another process holds it.

    Raises:
        UserError: another process holds the lock. The message names its id and `purpose`.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    # The id has a file of its own, because Windows lets nobody read a locked file.
    holder = lock_file.with_suffix(".pid")
    try:
        lock = FileLock(lock_file).acquire(blocking=False)
    except Timeout as error:
        pid = holder.read_text(encoding="ascii") if holder.exists() else "unknown"
        raise UserError(f"another process (pid {pid}) is running {purpose}; wait or stop it") from error
    with lock:
        holder.write_text(str(os.getpid()), encoding="ascii")
        yield


@contextmanager
def lock(lock_file: Path) -> Iterator[None]:
    """Hold a lock for the block, and wait for it first, as long as another process holds it."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock_file):
        yield
