"""Training checkpoints: the saved state of an unfinished training, from which a killed one continues.

accelerate's `save_state` does the same and pickles. Here a checkpoint is one safetensors file, so that reading it runs
no code.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from src.core.files import atomic_file

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingState:
    """Everything that the next epochs of a training depend on."""

    # Named GROUP/NAME.
    tensors: Mapping[str, Tensor]
    # JSON values.
    values: Mapping[str, Any]

    def group(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of a group by their names in it."""
        prefix = f"{name}/"
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


@dataclass(frozen=True)
class TrainingCheckpoint:
    """One safetensors file with the state of a training. A state that was saved under another key is ignored."""

    path: Path
    # Covers everything that a training's result depends on.
    key: str

    def load(self) -> TrainingState | None:
        """Return the last saved state, on the CPU; None if there is none, or if the file is damaged."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self.key:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 # it is no mapping
                return TrainingState(tensors, json.loads(metadata["values"]))
        except (SafetensorError, OSError) as error:
            _log.warning("%s cannot be read (%s): the training begins anew", self.path, error)
            return None

    def save(self, state: TrainingState) -> None:
        """Replace the saved state; a killed process leaves the old one in place.

        If the disk is full, a warning is logged and the training continues without a new checkpoint.
        """
        tensors = {name: value.contiguous() for name, value in state.tensors.items()}
        try:
            with atomic_file(self.path) as temporary:
                save_file(tensors, temporary, {"key": self.key, "values": json.dumps(state.values)})
        except (SafetensorError, OSError) as error:
            _log.warning("%s cannot be written (%s): killed now, the training begins anew", self.path, error)

    def delete(self) -> None:
        """Delete the file, at the end of the training."""
        self.path.unlink(missing_ok=True)
