"""Whether a search slows down as its study grows: seconds a trial at trial 10, 100 and 1,000.

python -m benchmarks.growth --trials 1000

The trials train nothing: what is timed is the drawing of settings, the study's storage, the driver and, in a thread
beside it as in `tune`, MLflow. Times are medians over the ten trials up to each mark.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import click

from benchmarks.searching import trial_seconds
from src.cli.options import command
from src.cli.output import table
from src.core.config import load_params
from src.search.plan import StudyPlan
from src.search.study import Study, open_study
from src.search.worker import TrialResult

MARKS = (10, 100, 300, 1000, 3000)
WINDOW = 10
MODEL = "clip"


@dataclass
class Trivial:
    """A worker whose trials have a score at once, and one epoch."""

    study: Study

    def run_one(self) -> TrialResult:
        """Draw settings and score them by a formula."""
        ticket = self.study.ask("one")
        score = 1 / (1 + abs(float(ticket.params["lr"]) - 0.001) * 1000)
        ticket.report(1, {"val_macro_f1": score}, last=True)
        return TrialResult(ticket.number, "one", "complete", (score,))


@command(example="python -m benchmarks.growth --trials 1000")
@click.option("--trials", type=click.IntRange(min=WINDOW), default=1000, help="Trials in all.")
@click.option("--mlflow/--no-mlflow", default=True, help="Whether MLflow shows them.")
def main(trials: int, mlflow: bool) -> None:
    """Time the trials of a growing study."""
    with TemporaryDirectory() as folder:
        study = open_study(f"sqlite:///{folder}/studies.db", _plan())
        times_s = trial_seconds(study, Trivial(study), Path(folder), trials, mlflow=mlflow)
    rows = [[mark, median(times_s[mark - WINDOW : mark])] for mark in MARKS if mark <= trials]
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


if __name__ == "__main__":
    main()
