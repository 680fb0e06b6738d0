"""Where a training stands, on disk: one that was killed goes on from there."""

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keeper:
    """One file, which says where the training that has this key stands; another training's is of no use."""

    path: Path
    key: str

    def load(self) -> dict[str, Any] | None:
        """What was saved last under this key, on the CPU; None where there is nothing, or nothing that can be read."""
        if not self.path.is_file():
            return None
        try:
            found: dict[str, Any] = torch.load(self.path, map_location="cpu", mmap=True, weights_only=True)
        except Exception as error:  # noqa: BLE001 # whatever torch raises on a damaged file
            reason = str(error).splitlines()[0]
            _log.warning("%s cannot be read (%s): the training begins anew", self.path, reason)
            return None
        return found if found.pop("key", None) == self.key else None

    def save(self, content: dict[str, Any]) -> None:
        """Keep tensors and plain values in place of what was kept before; a killed process leaves that as it was.

        Where the disk has no room, that is said in the log, and the training may go on.
        """
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torch.save({**content, "key": self.key}, temporary)
            temporary.replace(self.path)
        except (OSError, RuntimeError) as error:  # torch's own writer raises the latter
            _log.warning("%s cannot be written (%s): killed now, the training begins anew", self.path, error)
            with suppress(OSError):
                temporary.unlink()

    def forget(self) -> None:
        """Remove the file: the training has ended."""
        self.path.unlink(missing_ok=True)
