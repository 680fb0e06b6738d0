"""What the floors promise each other without importing each other."""

from collections.abc import Mapping
from typing import Protocol


class Reporter(Protocol):
    """Hears of a training as it goes; whoever starts the training says where the news goes."""

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Called once an epoch, counted from 1, after validation. May raise `Pruned` to end the training."""


class Silent:
    """A reporter that nobody listens to."""

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Says nothing."""
