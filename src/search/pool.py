"""Worker pools: the interface, and the pool of one worker in this process.

Ray Tune is not used. It keeps a state of its own beside Optuna's storage, and a resume would depend on both. It also
starts trials by itself, while `StudyRunner` queues interrupted trials and initial trials one by one before a worker
draws. Several processes that call `study.optimize` on one storage have neither.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    # A worker in another process unpickles this module before it has anything to train, so it loads no torch.
    from src.search.worker import TrialResult

W_co = TypeVar("W_co", covariant=True)


@dataclass(frozen=True)
class WorkerDied:
    """The result of the tasks of a worker that died."""

    worker: str
    # One line from the library that noticed it.
    reason: str
    # When the worker was started (seconds, as `time.monotonic` counts).
    started_s: float


class Worker(Protocol[W_co]):
    """Runs tasks. A task takes no input and returns a `W_co`."""

    def run(self, count: int) -> Iterator[W_co]:
        """Run `count` tasks side by side, and yield the result of each when it ends.

        After a result that makes the worker useless, the others' results may be missing.
        """


class WorkerPool(Protocol[W_co]):
    """Workers in this process, or in other processes and on other machines."""

    @property
    def busy(self) -> int:
        """The number of tasks that run."""

    @property
    def idle(self) -> int:
        """The number of workers that run no task."""

    def submit(self, count: int = 1) -> None:
        """Start tasks side by side on an idle worker."""

    def wait_any(self, timeout_s: float) -> W_co | WorkerDied | None:
        """Wait for the next result. Return `WorkerDied` if a worker dies first, or None after `timeout_s`."""

    @property
    def num_spare(self) -> int:
        """The number of started workers that run no task."""

    def withdraw(self, count: int) -> list[str]:
        """Take back the tasks of up to `count` workers that wait to be started. Return the names of these workers."""

    def replace(self, name: str) -> None:
        """Replace a worker that can no longer run tasks, and end those that it runs."""

    def close(self) -> None:
        """End all tasks at once."""


class LocalWorkerPool:
    """The pool of a search without Ray: one worker in this process."""

    def __init__(self, worker: "Worker[TrialResult]") -> None:
        self._worker = worker
        self._busy = 0
        self._results: Iterator[TrialResult] = iter(())

    @property
    def busy(self) -> int:
        """The number of submitted tasks that have not ended."""
        return self._busy

    @property
    def idle(self) -> int:
        """1 if no task is left, else 0."""
        return int(not self._busy)

    def submit(self, count: int = 1) -> None:
        """Record that there are tasks. `wait_any` runs them."""
        self._busy = count
        self._results = self._worker.run(count)

    def wait_any(self, timeout_s: float) -> "TrialResult":
        """Run the tasks until one ends, and return its result. `timeout_s` is ignored."""
        result = next(self._results)
        self._busy -= 1
        if not self._busy:
            self.close()
        return result

    @property
    def num_spare(self) -> int:
        """The same as `idle`: the worker is always started."""
        return self.idle

    def withdraw(self, count: int) -> list[str]:
        """Return no name: the worker never waits to be started."""
        return []

    def replace(self, name: str) -> None:
        """Raise `RestartRequired`: the worker is this process."""
        raise RestartRequired

    def close(self) -> None:
        """End all tasks at once. They have stood still since the last `wait_any`."""
        if isinstance(self._results, Generator):
            self._results.close()


class RestartRequired(Exception):
    """This process can train no more, and a new process must go on."""
