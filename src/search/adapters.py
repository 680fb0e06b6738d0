"""Adapters of finished trials, kept on disk until MLflow has them."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from src.core.files import atomic_folder


@dataclass(frozen=True)
class PendingAdapters:
    """One folder for each adapter that MLflow does not have yet. A folder is complete or absent."""

    folder: Path

    def put(self, number: int, files: Mapping[str, bytes]) -> None:
        """Save the files of a trial's adapter, in place of an earlier one."""
        with atomic_folder(self.folder / str(number)) as temporary:
            for name, content in files.items():
                (temporary / name).write_bytes(content)

    def find(self, number: int) -> Path | None:
        """Return the folder of a trial's adapter, or None if there is none."""
        path = self.folder / str(number)
        return path if path.is_dir() else None

    def remove(self, number: int) -> None:
        """Delete a trial's adapter."""
        shutil.rmtree(self.folder / str(number), ignore_errors=True)

    def tidy(self, numbers: Iterable[int]) -> None:
        """Delete the adapters of these trials, and the unfinished folders of killed processes."""
        unfinished = [path.name for path in self.folder.glob(".*")]
        for name in [*map(str, numbers), *unfinished]:
            shutil.rmtree(self.folder / name, ignore_errors=True)
