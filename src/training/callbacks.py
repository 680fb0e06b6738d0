"""Callbacks that a training reports to."""

from collections.abc import Mapping
from typing import Protocol


class TrainingCallback(Protocol):
    """Hears of a training as it goes; whoever starts the training says where the news goes."""

    def on_step(self) -> None:
        """Run after every optimiser step and validation batch. May raise `StopRequested` to end the training."""

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Called once an epoch, counted from 1, after validation; returns whether the training is worth going on."""


class NullCallback:
    """A reporter that nobody listens to."""

    def on_step(self) -> None:
        """Says nothing."""

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Says nothing, and has no objection."""
        return True
