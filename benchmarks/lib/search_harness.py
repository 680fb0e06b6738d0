"""One search in this process, as `tune` runs it: the runner, one worker, and the MLflow thread beside them."""

import os
import time
from collections.abc import Iterator, Sequence
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
class _TimedWorker:
    """A worker that records the start time of each trial."""

    worker: Worker[TrialResult]
    starts_s: list[float] = field(default_factory=list)

    def run(self, count: int) -> Iterator[TrialResult]:
        self.starts_s.append(time.perf_counter())
        yield from self.worker.run(count)


def trial_seconds(
    study: Study, worker: Worker[TrialResult], folder: Path, trials: int, *, mlflow: bool = True
) -> list[float]:
    """Run trials and return the seconds from each trial's start to the next start, or to the end of the search."""
    timed_worker = _TimedWorker(worker)
    adapters = PendingAdapters(folder / "trials")
    listeners: Sequence[TrialListener] = [_sync(study, folder, adapters).show] if mlflow else []
    with StudyPoller(study.try_trials, listeners):
        StudyRunner(study, LocalWorkerPool(timed_worker), adapters, StopSignal()).run(trials)
        end_s = time.perf_counter()
    return [after - before for before, after in pairwise([*timed_worker.starts_s, end_s])]


def _sync(study: Study, folder: Path, adapters: PendingAdapters) -> MlflowSync:
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlruns/mlflow.db"
    tracker = Tracker(study.name)
    metadata = TrialRunMetadata(study.name, {"stage": "trial"}, {})
    return MlflowSync(tracker, tracker.run("study"), metadata, adapters)
