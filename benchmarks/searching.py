"""A search as `tune` runs one in one process: the driver sends the worker, and a thread beside it draws MLflow."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from src.core.protocols import Worker
from src.core.stopping import StopSignal
from src.search.driver import Driver, Solo
from src.search.trial import Ended
from src.services.follower import Follower, View
from src.services.mirror import Caption, Mirror, Shelf
from src.services.studies import Study
from src.services.tracking import Tracker


@dataclass
class _Watched:
    """A worker that notes when each of its trials begins."""

    worker: Worker[Ended]
    begun_s: list[float] = field(default_factory=list)

    def run_one(self) -> Ended:
        self.begun_s.append(time.perf_counter())
        return self.worker.run_one()


def trial_seconds(
    study: Study, worker: Worker[Ended], folder: Path, trials: int, *, mlflow: bool = True
) -> list[float]:
    """Run so many trials; returns the seconds from the beginning of each to that of the next, or to the end."""
    watched, shelf = _Watched(worker), Shelf(folder / "trials")
    views: Sequence[View] = [_mirror(study, folder, shelf).show] if mlflow else []
    with Follower(study.glance, views):
        Driver(study, Solo(watched), shelf, StopSignal()).run(trials)
        ended_s = time.perf_counter()
    return [after - before for before, after in pairwise([*watched.begun_s, ended_s])]


def _mirror(study: Study, folder: Path, shelf: Shelf) -> Mirror:
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlruns/mlflow.db"
    tracker = Tracker(study.name)
    return Mirror(tracker, tracker.run("study"), Caption(study.name, {"stage": "trial"}, dict), shelf)
