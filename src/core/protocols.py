"""What the floors promise each other without importing each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

W_co = TypeVar("W_co", covariant=True)


class Reporter(Protocol):
    """Hears of a training as it goes; whoever starts the training says where the news goes."""

    def on_step(self) -> None:
        """Called after every optimiser step and every batch of validation. May raise `Stopped` to end all at once."""

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Called once an epoch, counted from 1, after validation; returns whether the training is worth going on."""


class Silent:
    """A reporter that nobody listens to."""

    def on_step(self) -> None:
        """Says nothing."""

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Says nothing, and has no objection."""
        return True


@dataclass(frozen=True)
class Lost:
    """A worker that died, with whatever it was doing."""

    worker: str
    why: str


class Worker(Protocol[W_co]):
    """Does one piece of work after another; `W_co` is what it says of each."""

    def run_one(self) -> W_co:
        """Do one piece of work."""


class Crew(Protocol[W_co]):
    """Workers that are sent to work, here or on other machines; there are `size` of them."""

    size: int

    @property
    def busy(self) -> int:
        """How many are at work."""

    def begin(self) -> None:
        """Send an idle worker to do one piece of work."""

    def next(self, timeout_s: float) -> W_co | Lost | None:
        """What a worker says that is done, or that one is lost, whichever comes first; None after `timeout_s`."""

    def renew(self, name: str) -> None:
        """Have another one in the place of a worker that can do no more."""

    def close(self) -> None:
        """End all work at once."""
