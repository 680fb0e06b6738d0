"""Where a training stands, on disk: one that was killed goes on from there."""

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingState:
    """All that the next epochs depend on: tensors, each named GROUP/NAME, and plain values, as JSON has them."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors of a group by their names in it."""
        start = f"{name}/"
        return {key.removeprefix(start): value for key, value in self.tensors.items() if key.startswith(start)}


@dataclass(frozen=True)
class TrainingCheckpoint:
    """One file of safetensors, which says where the training that has this key stands; another's is of no use."""

    path: Path
    key: str

    def load(self) -> TrainingState | None:
        """What was saved last under this key, on the CPU; None where there is nothing, or nothing that can be read."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                facts = file.metadata() or {}
                if facts.get("key") != self.key:
                    return None
                return TrainingState({name: file.get_tensor(name) for name in file.keys()}, json.loads(facts["values"]))  # noqa: SIM118 # it is no mapping
        except (SafetensorError, OSError) as error:
            _log.warning("%s cannot be read (%s): the training begins anew", self.path, error)
            return None

    def save(self, standing: TrainingState) -> None:
        """Keep it in place of what was kept before; a killed process leaves that as it was.

        Where the disk has no room, that is said in the log, and the training may go on.
        """
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        tensors = {name: value.contiguous() for name, value in standing.tensors.items()}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, temporary, {"key": self.key, "values": json.dumps(standing.values)})
            temporary.replace(self.path)
        except (SafetensorError, OSError) as error:
            _log.warning("%s cannot be written (%s): killed now, the training begins anew", self.path, error)
            with suppress(OSError):
                temporary.unlink()

    def forget(self) -> None:
        """Remove the file: the training has ended."""
        self.path.unlink(missing_ok=True)
