"""What of a trial is not training, the time of a search's trials that is spent outside of `fit`.

python -m benchmarks.overhead --model tinyllava --size medium --num-posts 100

One process runs trials as `tune` does: settings are drawn from a study on SQLite, an adapter is put on and taken off,
the adapter is saved and the study told, and a thread beside it draws MLflow. `fit`, which trains and validates, is
timed within. The first trial, which builds the cache, does not count; pruning is off.
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

from benchmarks import posts, sizes
from benchmarks.searching import trial_seconds
from src.cli.options import command, model_option
from src.cli.output import say, table
from src.core.config import Params, load_params
from src.core.paths import SAMPLE
from src.models.catalog import MODELS
from src.search import worker
from src.search.plan import StudyPlan
from src.search.study import open_study
from src.search.worker import TrialWorker
from src.training.workspace import Workspace


@contextmanager
def timed_fits() -> Iterator[list[float]]:
    """The seconds of every training that a trial does as long as the context lasts."""
    module: Any = worker
    original, fits = module.fit, list[float]()

    def timed(*arguments: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        found = original(*arguments, **options)
        fits.append(time.perf_counter() - begun)
        return found

    module.fit = timed
    try:
        yield fits
    finally:
        module.fit = original


@command(example="python -m benchmarks.overhead --model tinyllava --size medium --num-posts 100")
@model_option(MODELS)
@click.option("--size", type=click.Choice(sizes.SIZES), default="tiny")
@click.option("--posts", "source", type=click.Path(path_type=Path), default=SAMPLE, help="A folder in MVSA's layout.")
@click.option("--num-posts", type=click.IntRange(min=20), help="Of train and val together, 3 to 1.  [default: all]")
@click.option("--trials", type=click.IntRange(min=2), default=10, help="In all.")
def main(model: str, size: str, source: Path, num_posts: int | None, trials: int) -> None:
    """Time what a trial does besides training."""
    set_verbosity_error()
    params = load_params()
    parts = posts.read(source, num_posts, params.seed)
    with TemporaryDirectory() as folder:
        sized = sizes.make(model, size, Path(folder), [post.caption for post in parts.train])
        both = {"train": list(parts.train), "val": list(parts.val)}
        workspace = Workspace(sized.load(), both, Path(folder) / "cache")
        wholes, fits = _search(params, workspace, Path(folder), trials)
    rest = [whole - fit_s for whole, fit_s in zip(wholes, fits, strict=True)][1:]
    figures = {"trial_s": median(wholes[1:]), "rest_s": median(rest), "longest_rest_s": max(rest)}
    figures["share"] = figures["rest_s"] / figures["trial_s"]
    title = f"{model}, {size}, {len(parts.train)} + {len(parts.val)} posts, medians of {trials - 1} trials"
    table(title, ["trial s", "not training s", "at most", "share"], [list(figures.values())])
    rounded = {name: round(value, 4) for name, value in figures.items()}
    say(json.dumps({"benchmark": "overhead", "model": model, "size": size, "trials": trials, **rounded}))


def _search(params: Params, workspace: Workspace, folder: Path, trials: int) -> tuple[list[float], list[float]]:
    """The seconds of each trial, and those of the training in it."""
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
