"""Worker pools: the interface, and the pool of one worker in this process.

Ray Tune is not used. It keeps a state of its own beside Optuna's storage, and a resume would depend on both. It also
starts trials by itself, while `StudyRunner` queues interrupted trials and initial trials one by one before a worker
draws. Several processes that call `study.optimize` on one storage have neither.
"""

from dataclasses import dataclass
from typing import Protocol, TypeVar

from src.search.worker import TrialResult

W_co = TypeVar("W_co", covariant=True)


@dataclass(frozen=True)
class WorkerDied:
    """The result of a task whose worker died."""

    worker: str
    # One line from the library that noticed it.
    reason: str


class Worker(Protocol[W_co]):
    """Runs one task after another. A task takes no input and returns a `W_co`."""

    def run_one(self) -> W_co:
        """Run one task and return its result."""


class WorkerPool(Protocol[W_co]):
    """Workers in this process, or in other processes and on other machines."""

    # The number of workers.
    size: int

    @property
    def busy(self) -> int:
        """The number of workers that run a task."""

    def submit(self) -> None:
        """Start one task on an idle worker."""

    def wait_any(self, timeout_s: float) -> W_co | WorkerDied | None:
        """Wait for the next result. Return `WorkerDied` if a worker dies first, or None after `timeout_s`."""

    def replace(self, name: str) -> None:
        """Replace a worker that can no longer run tasks."""

    def close(self) -> None:
        """End all tasks at once."""


class LocalWorkerPool:
    """The pool of a search without Ray: one worker in this process."""

    size = 1

    def __init__(self, worker: Worker[TrialResult]) -> None:
        self._worker = worker
        self._busy = 0

    @property
    def busy(self) -> int:
        """The number of submitted tasks, 0 or 1."""
        return self._busy

    def submit(self) -> None:
        """Record that there is a task. `wait_any` runs it."""
        self._busy = 1

    def wait_any(self, timeout_s: float) -> TrialResult:
        """Run the task and return its result. `timeout_s` is ignored."""
        result = self._worker.run_one()
        self._busy = 0
        return result

    def replace(self, name: str) -> None:
        """Raise `RestartRequired`: the worker is this process."""
        raise RestartRequired

    def close(self) -> None:
        """Do nothing: no task runs outside of `wait_any`."""


class RestartRequired(Exception):
    """This process can train no more, and a new process must go on."""
