"""Adapters of trials that MLflow does not have yet."""

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from src.core.files import write_bytes


@dataclass(frozen=True)
class PendingAdapters:
    """Adapters of trials that MLflow does not have yet, a folder each, whole or not there."""

    folder: Path

    def put(self, number: int, files: Mapping[str, bytes]) -> None:
        """Keep the files of a trial's adapter."""
        temporary = self.folder / f".{number}.{os.getpid()}"
        try:
            for name, content in files.items():
                write_bytes(temporary / name, content)
            shutil.rmtree(self.folder / str(number), ignore_errors=True)
            temporary.rename(self.folder / str(number))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def find(self, number: int) -> Path | None:
        """The folder with a trial's adapter, if it is here."""
        place = self.folder / str(number)
        return place if place.is_dir() else None

    def remove(self, number: int) -> None:
        """Forget a trial's adapter."""
        shutil.rmtree(self.folder / str(number), ignore_errors=True)

    def tidy(self, numbers: Iterable[int]) -> None:
        """Forget the adapters of these trials, and what a killed process left half-written."""
        for left in [*map(str, numbers), *(path.name for path in self.folder.glob(".*"))]:
            shutil.rmtree(self.folder / left, ignore_errors=True)
