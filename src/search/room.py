"""Whether there is room for what a search will write, found out before it begins."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from src.core.errors import Refusal

# For databases, pictures and the like; adapters come on top of it.
LEAST_BYTES = 64 * 2**20


def require_room(folders: list[Path], num_bytes: int = LEAST_BYTES) -> None:
    """Write a file into each folder, and ask how much is free there.

    Raises:
        Refusal: a folder takes no file, or its disk has less than `num_bytes` left.
    """
    for folder in folders:
        probe = folder / f".room.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"room")
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise Refusal(f"nothing can be written in {folder}: {error.strerror or error}") from error
        finally:
            with suppress(OSError):
                probe.unlink()
        if free < num_bytes:
            raise Refusal(
                f"{folder} has {free / 2**20:,.0f} MiB left, and the search needs {num_bytes / 2**20:,.0f} or more: "
                "make room first"
            )
