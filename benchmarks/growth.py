"""Whether a search slows down as its study grows: seconds a trial at trial 10, 100 and 1,000.

python -m benchmarks.growth --trials 1000

The trials train nothing: what is timed is the drawing of settings, the study's storage, the driver and, in a thread
beside it as in `tune`, MLflow. Times are medians over the ten trials up to each mark.
"""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import click

from src.core.config import load_params
from src.core.stopping import StopSignal
from src.search.driver import Driver, Solo
from src.search.trial import Ended
from src.services.follower import Follower
from src.services.mirror import Caption, Mirror, Shelf
from src.services.plan import StudyPlan
from src.services.studies import Study, open_study
from src.services.terminal import command, table
from src.services.tracking import Tracker

MARKS = (10, 100, 300, 1000, 3000)
WINDOW = 10
MODEL = "clip"


@dataclass
class Trivial:
    """A worker whose trials have a score at once, and one epoch."""

    study: Study
    begun_s: list[float] = field(default_factory=list)

    def run_one(self) -> Ended:
        """Draw settings and score them by a formula."""
        self.begun_s.append(time.perf_counter())
        ticket = self.study.ask("one")
        score = 1 / (1 + abs(float(ticket.params["lr"]) - 0.001) * 1000)
        ticket.report(1, {"val_macro_f1": score}, last=True)
        return Ended(ticket.number, "one", "complete", (score,))


@command(example="python -m benchmarks.growth --trials 1000")
@click.option("--trials", type=click.IntRange(min=WINDOW), default=1000, help="Trials in all.")
@click.option("--mlflow/--no-mlflow", default=True, help="Whether MLflow shows them.")
def main(trials: int, mlflow: bool) -> None:
    """Time the trials of a growing study."""
    with TemporaryDirectory() as folder:
        study = open_study(f"sqlite:///{folder}/studies.db", _plan())
        worker = Trivial(study)
        driver = Driver(study, Solo(worker), Shelf(Path(folder) / "trials"), StopSignal())
        views = [mirror(study, folder).show] if mlflow else []
        with Follower(study.glance, views):
            driver.run(trials)
    times_s = [after - before for before, after in zip(worker.begun_s, worker.begun_s[1:], strict=False)]
    rows = [[mark, median(times_s[mark - WINDOW : mark])] for mark in MARKS if mark <= len(times_s) + 1]
    first = rows[0][1]
    table("Seconds a trial", ["trial", "seconds", "ratio"], [[*row, row[1] / first] for row in rows])


def _plan() -> StudyPlan:
    return StudyPlan(
        name="growth",
        space=load_params().space_of(MODEL),
        seed=1,
        startup_trials=10,
        pruner="halving",
        min_epochs=1,
        max_epochs=1,
    )


def mirror(study: Study, folder: str) -> Mirror:
    """MLflow with a database of its own in `folder`."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlruns/mlflow.db"
    tracker = Tracker("growth")
    caption = Caption("growth", {"stage": "trial"}, dict)
    return Mirror(tracker, tracker.run("study"), caption, Shelf(Path(folder) / "trials"))


if __name__ == "__main__":
    main()
