"""Workers whose trials only sleep and report: what is tested is the search, and its processes start at once."""

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from src.core.config import Range
from src.search.plan import StudyPlan
from src.search.pool import WorkerDied
from src.search.ray_pool import RayWorkerPool
from src.search.study import Study, join_study

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
    """Happens in every trial."""


@dataclass(frozen=True)
class Done:
    """What a light worker says of a trial, all of which end well."""

    number: int
    worker: str

    def ended(self) -> "TrialResult":
        """The same as the driver of a search wants it, whose module takes seconds to import."""
        from src.search.worker import TrialResult

        return TrialResult(self.number, self.worker, "complete", (score(self.number),), adapter=ADAPTER)


def score(number: int) -> float:
    return 1 / (2 + number)


@dataclass
class LightWorker:
    """Runs trials of some epochs; `during` is called with a trial's number after its first."""

    study: Study
    name: str = "light"
    epoch_s: float = 0.02
    during: Callable[[int], None] = nothing

    def run_one(self) -> Done:
        ticket = self.study.ask(self.name)
        ticket.note("process", f"{socket.gethostname()}:{os.getpid()}")
        for epoch in range(1, EPOCHS + 1):
            ticket.report(epoch, {"val_macro_f1": epoch / 10, "val_loss": 1 / epoch}, last=epoch == EPOCHS)
            if epoch == 1:
                self.during(ticket.number)
            time.sleep(self.epoch_s)
        ticket.set_outcome(OUTCOME)
        return Done(ticket.number, self.name)


def open_light_worker(name: str, url: str, plan: StudyPlan, epoch_s: float) -> LightWorker:
    """As a process of Ray's makes it."""
    return LightWorker(join_study(url, plan), name, epoch_s)


@dataclass
class Raising:
    """A worker that can do nothing."""

    name: str
    error: Exception

    def run_one(self) -> Done:
        raise self.error


@dataclass
class Process:
    """A worker that says which process it is."""

    name: str

    def run_one(self) -> int:
        return os.getpid()


@dataclass
class InProcess:
    """A light worker for a search without Ray."""

    worker: LightWorker

    def run_one(self) -> "TrialResult":
        return self.worker.run_one().ended()


class InProcesses:
    """Light workers of Ray's for a search."""

    def __init__(self, crew: RayWorkerPool[Done]) -> None:
        self._crew = crew
        self.size = crew.size
        self.begin = crew.begin
        self.replace = crew.replace
        self.close = crew.close

    @property
    def busy(self) -> int:
        return self._crew.busy

    def next(self, timeout_s: float) -> "TrialResult | WorkerDied | None":
        news = self._crew.next(timeout_s)
        return news.ended() if isinstance(news, Done) else news
