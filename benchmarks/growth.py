"""Seconds per trial as a study grows, at trial 10, 100, 300, 1,000 and so on.

python -m benchmarks.growth --trials 1000

The trials train nothing. The benchmark times sampling, the study's storage, the runner and the MLflow thread that
`tune` runs beside them. A figure is the median of the ten trials up to the mark.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import click

from benchmarks.lib.search_harness import trial_seconds
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
class InstantWorker:
    """A worker whose trials have one epoch and a score that a formula gives at once."""

    study: Study

    def run(self, count: int) -> Iterator[TrialResult]:
        """Run trials: ask for parameters, score them by the formula, report."""
        for _ in range(count):
            yield self._run_one()

    def _run_one(self) -> TrialResult:
        trial = self.study.ask("one")
        score = 1 / (1 + abs(float(trial.params["lr"]) - 0.001) * 1000)
        trial.report(1, {"val_macro_f1": score}, last=True)
        return TrialResult(trial.number, "one", "complete", (score,))


@command(example="python -m benchmarks.growth --trials 1000")
@click.option("--trials", type=click.IntRange(min=WINDOW), default=1000, help="Total number of trials.")
@click.option("--mlflow/--no-mlflow", default=True, help="Write the trials to MLflow.")
def main(trials: int, mlflow: bool) -> None:
    """Time the trials of a growing study."""
    with TemporaryDirectory() as folder:
        study = open_study(f"sqlite:///{folder}/studies.db", _plan())
        times_s = trial_seconds(study, InstantWorker(study), Path(folder), trials, mlflow=mlflow)
    rows = [[mark, median(times_s[mark - WINDOW : mark])] for mark in MARKS if mark <= trials]
    first_s = rows[0][1]
    table("Seconds per trial", ["trial", "seconds", "ratio"], [[*row, row[1] / first_s] for row in rows])


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
