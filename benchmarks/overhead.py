"""Seconds of a trial outside of training: the time that a search spends outside of `fit`.

python -m benchmarks.overhead --model tinyllava --size medium --num-posts 100

One process runs trials as `tune` does. It samples parameters from a study on SQLite, attaches and detaches an adapter,
saves the adapter and updates the study, while a thread writes to MLflow. `fit`, which trains and validates, is timed
within. The first trial builds the cache and does not count. Pruning is off.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
from transformers.utils.logging import set_verbosity_error

from benchmarks.lib import posts, sizes
from benchmarks.lib.search_harness import trial_seconds
from src.cli.options import command, model_option
from src.cli.output import say, table
from src.core.config import Params, load_params
from src.core.paths import SAMPLE
from src.models.catalog import MODELS
from src.search.plan import StudyPlan
from src.search.study import open_study
from src.search.worker import TrialWorker
from src.training import train_and_test
from src.training.workspace import Workspace


@contextmanager
def timed_fits() -> Iterator[list[float]]:
    """Record the seconds of each training of a trial within the context."""
    module: Any = train_and_test
    original = module.fit
    fits: list[float] = []

    def timed(*arguments: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        result = original(*arguments, **options)
        fits.append(time.perf_counter() - begun)
        return result

    module.fit = timed
    try:
        yield fits
    finally:
        module.fit = original


@command(example="python -m benchmarks.overhead --model tinyllava --size medium --num-posts 100")
@model_option(MODELS)
@click.option("--size", type=click.Choice(sizes.SIZES), default="tiny")
@click.option("--posts", "source", type=click.Path(path_type=Path), default=SAMPLE, help="A folder in MVSA's layout.")
@click.option("--num-posts", type=click.IntRange(min=20), help="Train and val posts together, 3 to 1.  [default: all]")
@click.option("--trials", type=click.IntRange(min=2), default=10, help="Total number of trials.")
def main(model: str, size: str, source: Path, num_posts: int | None, trials: int) -> None:
    """Time a trial without its training."""
    set_verbosity_error()
    params = load_params()
    parts = posts.read(source, num_posts, params.seed)
    with TemporaryDirectory() as folder:
        sized = sizes.make(model, size, Path(folder), [post.caption for post in parts.train])
        both = {"train": list(parts.train), "val": list(parts.val)}
        workspace = Workspace(sized.load(), both, cache=Path(folder) / "cache")
        trials_s, fits_s = _search(params, workspace, Path(folder), trials)
    rest = [trial_s - fit_s for trial_s, fit_s in zip(trials_s, fits_s, strict=True)][1:]
    figures = {"trial_s": median(trials_s[1:]), "rest_s": median(rest), "longest_rest_s": max(rest)}
    figures["share"] = figures["rest_s"] / figures["trial_s"]
    title = f"{model}, {size}, {len(parts.train)} + {len(parts.val)} posts, medians of {trials - 1} trials"
    table(title, ["trial s", "not training s", "longest", "share"], [list(figures.values())])
    rounded = {name: round(value, 4) for name, value in figures.items()}
    say(json.dumps({"benchmark": "overhead", "model": model, "size": size, "trials": trials, **rounded}))


def _search(params: Params, workspace: Workspace, folder: Path, trials: int) -> tuple[list[float], list[float]]:
    """Return the seconds of each trial, and of the training in it."""
    model = workspace.model.spec.name
    plan = StudyPlan(
        name="overhead",
        space=params.space_of(model),
        seed=params.seed,
        startup_trials=params.tune.startup_trials,
        pruner="none",
        min_epochs=params.tune.min_epochs,
        max_epochs=params.training_config(model).epochs,
    )
    study = open_study(f"sqlite:///{folder}/studies.db", plan)
    with timed_fits() as fits:
        return trial_seconds(study, TrialWorker(params, workspace, study, ""), folder, trials), fits


if __name__ == "__main__":
    main()
