"""Workers whose trials only sleep and report, so that tests of the search start processes at once."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.core.config import Range
from src.search.plan import StudyPlan
from src.search.pool import WorkerDied
from src.search.ray_pool import RayWorkerPool
from src.search.study import RunningTrial, Study, join_study

if TYPE_CHECKING:
    from src.search.worker import TrialResult

EPOCHS = 3
ADAPTER = {"adapter.json": b"{}", "head.safetensors": b"weights"}
OUTCOME = {
    "scores": {
        "accuracy": 0.5,
        "macro_f1": 0.5,
        "weighted_f1": 0.5,
        "per_class": {tone: {"precision": 0.5, "recall": 0.5, "f1": 0.5} for tone in ("negative", "neutral")},
        "confusion": [[1, 1, 0], [0, 1, 1], [0, 0, 1]],
    },
    "report": "a report",
    "best_epoch": 2,
    "modules": ["text.q", "text.v"],
    "parameters": 1234,
}


def plan(name: str, **changes: Any) -> StudyPlan:
    settings: dict[str, Any] = {"pruner": "none", "min_epochs": 1, "max_epochs": EPOCHS, **changes}
    space = {"rank": Range(low=1, high=16, scale="log2"), "lr": Range(low=1e-5, high=1e-2, scale="log")}
    return StudyPlan(name=name, space=space, seed=1, startup_trials=50, **settings)


def nothing(number: int) -> None:
    """Do nothing during a trial."""


@dataclass(frozen=True)
class Done:
    """The result of a light worker: its trials complete, unless they are told to end early."""

    number: int
    worker: str
    is_pruned: bool = False

    def result(self) -> "TrialResult":
        """Return the result for the runner. Importing its class takes seconds, and workers do without."""
        from src.search.worker import TrialResult

        if self.is_pruned:
            return TrialResult(self.number, self.worker, "pruned")
        return TrialResult(self.number, self.worker, "complete", (score(self.number),), adapter=ADAPTER)


def score(number: int) -> float:
    return 1 / (2 + number)


class OneByOne:
    """Runs the tasks of a worker one after the other."""

    def run(self, count: int) -> Iterator[Any]:
        for _ in range(count):
            yield self.run_one()

    def run_one(self) -> Any:
        raise NotImplementedError


@dataclass
class LightWorker(OneByOne):
    """Runs trials of `EPOCHS` epochs. `during` is called with a trial's number after the first epoch."""

    study: Study
    name: str = "light"
    epoch_s: float = 0.02
    during: Callable[[int], object] = nothing

    def run(self, count: int) -> Iterator[Done]:
        trials = [self.study.ask(self.name) for _ in range(count)]
        yield from map(self._run, trials)

    def run_one(self) -> Done:
        return self._run(self.study.ask(self.name))

    def _run(self, trial: RunningTrial) -> Done:
        trial.set_attr("process", f"{socket.gethostname()}:{os.getpid()}")
        for epoch in range(1, EPOCHS + 1):
            metrics = {"val_macro_f1": epoch / 10, "val_loss": 1 / epoch}
            if not trial.report(epoch, metrics, last=epoch == EPOCHS):
                return Done(trial.number, self.name, is_pruned=True)
            if epoch == 1:
                self.during(trial.number)
            time.sleep(self.epoch_s)
        trial.set_outcome(OUTCOME)
        return Done(trial.number, self.name)


@dataclass(frozen=True)
class Hold:
    """Holds a trial for as long as a file exists."""

    file: Path

    def __call__(self, number: int) -> None:
        while self.file.exists():
            time.sleep(0.02)


def open_light_worker(
    name: str, url: str, plan: StudyPlan, epoch_s: float, during: Callable[[int], object] = nothing
) -> LightWorker:
    """Open a light worker in a process of Ray's."""
    return LightWorker(join_study(url, plan), name, epoch_s, during)


@dataclass
class Raising(OneByOne):
    """A worker that always raises an error."""

    name: str
    error: Exception

    def run_one(self) -> Done:
        raise self.error


@dataclass
class Process(OneByOne):
    """A worker that returns its process id."""

    name: str

    def run_one(self) -> int:
        return os.getpid()


@dataclass
class InProcess:
    """A light worker for a search without Ray."""

    worker: LightWorker

    def run(self, count: int) -> "Iterator[TrialResult]":
        return (done.result() for done in self.worker.run(count))


class InProcesses:
    """Light workers in Ray's processes for a search."""

    def __init__(self, pool: RayWorkerPool[Done]) -> None:
        self._pool = pool
        self.submit = pool.submit
        self.withdraw = pool.withdraw
        self.replace = pool.replace
        self.close = pool.close

    @property
    def busy(self) -> int:
        return self._pool.busy

    @property
    def idle(self) -> int:
        return self._pool.idle

    @property
    def num_spare(self) -> int:
        return self._pool.num_spare

    def wait_any(self, timeout_s: float) -> "TrialResult | WorkerDied | None":
        result = self._pool.wait_any(timeout_s)
        return result.result() if isinstance(result, Done) else result
