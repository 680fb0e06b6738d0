"""Callbacks: how a training or an encoding reports its progress, and how it is stopped."""

from collections.abc import Mapping
from typing import Protocol


class TrainingCallback(Protocol):
    """The listener of one training, passed in by the code that starts it."""

    def on_batch(self) -> None:
        """Handle a training batch, after its gradients, or a validation batch. May raise `StopRequested`."""

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Handle the metrics of an epoch, counted from 1, and return whether the training continues."""


class NullCallback:
    """A callback that ignores everything and never stops a training."""

    def on_batch(self) -> None:
        """Do nothing."""

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Return True."""
        return True


def noop(*_: object) -> None:
    """Do nothing: the default of progress functions."""
