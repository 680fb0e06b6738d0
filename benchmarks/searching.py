"""A search as `tune` runs one in one process: the driver sends the worker, and a thread beside it draws MLflow."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from src.core.signals import StopSignal
from src.search.adapters import PendingAdapters
from src.search.mlflow_sync import MlflowSync, TrialRunMetadata
from src.search.poller import StudyPoller, TrialListener
from src.search.pool import LocalWorkerPool, Worker
from src.search.runner import StudyRunner
from src.search.study import Study
from src.search.worker import TrialResult
from src.tracking.client import Tracker


@dataclass
class _Watched:
    """A worker that notes when each of its trials begins."""

    worker: Worker[TrialResult]
    begun_s: list[float] = field(default_factory=list)

    def run_one(self) -> TrialResult:
        self.begun_s.append(time.perf_counter())
        return self.worker.run_one()


def trial_seconds(
    study: Study, worker: Worker[TrialResult], folder: Path, trials: int, *, mlflow: bool = True
) -> list[float]:
    """Run so many trials; returns the seconds from the beginning of each to that of the next, or to the end."""
    watched, shelf = _Watched(worker), PendingAdapters(folder / "trials")
    views: Sequence[TrialListener] = [_mirror(study, folder, shelf).show] if mlflow else []
    with StudyPoller(study.try_trials, views):
        StudyRunner(study, LocalWorkerPool(watched), shelf, StopSignal()).run(trials)
        ended_s = time.perf_counter()
    return [after - before for before, after in pairwise([*watched.begun_s, ended_s])]


def _mirror(study: Study, folder: Path, shelf: PendingAdapters) -> MlflowSync:
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlruns/mlflow.db"
    tracker = Tracker(study.name)
    return MlflowSync(tracker, tracker.run("study"), TrialRunMetadata(study.name, {"stage": "trial"}, dict), shelf)
