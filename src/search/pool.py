"""Worker pools: the interface, and the pool of one local worker."""

from dataclasses import dataclass
from typing import Protocol, TypeVar

from src.search.worker import TrialResult

W_co = TypeVar("W_co", covariant=True)


@dataclass(frozen=True)
class WorkerDied:
    """A worker that died, with whatever it was doing."""

    worker: str
    why: str


class Worker(Protocol[W_co]):
    """Does one piece of work after another; `W_co` is what it says of each."""

    def run_one(self) -> W_co:
        """Do one piece of work."""


class WorkerPool(Protocol[W_co]):
    """Workers that are sent to work, here or on other machines; there are `size` of them."""

    size: int

    @property
    def busy(self) -> int:
        """How many are at work."""

    def begin(self) -> None:
        """Send an idle worker to do one piece of work."""

    def next(self, timeout_s: float) -> W_co | WorkerDied | None:
        """What a worker says that is done, or that one is lost, whichever comes first; None after `timeout_s`."""

    def replace(self, name: str) -> None:
        """Have another one in the place of a worker that can do no more."""

    def close(self) -> None:
        """End all work at once."""


class LocalWorkerPool:
    """The one worker of a search without Ray: this process."""

    size = 1

    def __init__(self, worker: Worker[TrialResult]) -> None:
        self._worker = worker
        self._busy = 0

    @property
    def busy(self) -> int:
        """Whether there is work, as 0 or 1."""
        return self._busy

    def begin(self) -> None:
        """Note that there is work, which `next` does."""
        self._busy = 1

    def next(self, timeout_s: float) -> TrialResult:
        """Do the work, however long it takes."""
        ended = self._worker.run_one()
        self._busy = 0
        return ended

    def replace(self, name: str) -> None:
        """Refuse: a process that can train no more has to begin anew."""
        raise RestartRequired

    def close(self) -> None:
        """Nothing is going on."""


class RestartRequired(Exception):
    """This process can train no more; another one goes on where it ends."""
