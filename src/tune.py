"""Stage `tune`: searches a model's settings with Optuna; every trial is a run in MLflow.

python -m src.tune --model tinyllava --trials 30

The study's storage is the truth: the same command again runs only the trials that are missing.

python -m src.tune --model tinyllava --trials 30 --workers 4
python -m src.tune --model tinyllava --sync
python -m src.tune --model llava --scale full --dry-run --memory-gib 32

The second searches by four workers, the third rebuilds what MLflow shows of the search, the last says what the search
would take at the published size, from the model files alone.
"""

import json
import os
import shlex
import sys
import time
from dataclasses import replace
from typing import Any, get_args

import click

from src.cli.options import command, model_option, seconds_of
from src.cli.output import say
from src.core.config import Params, Pruning, Sampling, load_params
from src.core.errors import StopRequested, UsageError
from src.models.catalog import MODELS

# What a process tells the one that goes on in its place: the failures that came last, and when time is over.
_RESTART_STATE_ENV = "MVSA_TUNE_HERITAGE"


def _seconds(context: click.Context, option: click.Parameter, given: str | None) -> float | None:
    return None if given is None else seconds_of(given)


@command(example="python -m src.tune --model tinyllava --trials 30 --workers 4")
@model_option(MODELS)
@click.option("--trials", type=click.IntRange(min=1), help="Finished trials in all, earlier ones included.")
@click.option("--time-budget", callback=_seconds, metavar="TIME", help="Begin no trial after so long, such as 6h.")
@click.option("--sampler", type=click.Choice(get_args(Sampling)), help="In place of tune.sampler.")
@click.option("--pruner", type=click.Choice(get_args(Pruning)), help="In place of tune.pruner.")
@click.option("--storage", envvar="MVSA_STORAGE", help="Of the study: an SQLAlchemy URL, or grpc://HOST:PORT.")
@click.option("--workers", type=click.IntRange(min=1), default=1, envvar="MVSA_WORKERS", help="More need Ray.")
@click.option("--ray-address", envvar="MVSA_RAY_ADDRESS", help="Of a running cluster; else one is started here.")
@click.option("--gpus-per-trial", type=click.FloatRange(min=0), help="A worker's share.  [default: 1 if there is any]")
@click.option("--cpus-per-trial", type=click.IntRange(min=1), help="A worker's share.  [default: an even one]")
@click.option("--sync", is_flag=True, help="Train nothing; bring MLflow to what the study's storage says.")
@click.option("--dry-run", is_flag=True, help="Only say what it would take; needs --scale full.")
@click.option("--scale", type=click.Choice(["full"]), help="With --dry-run: the published size.")
@click.option(
    "--memory-gib", type=click.FloatRange(min=0, min_open=True), help="With --dry-run: the GPU's.  [default: 32]"
)
def main(
    model: str,
    trials: int | None,
    time_budget: float | None,
    sync: bool,
    dry_run: bool,
    scale: str | None,
    memory_gib: float | None,
    **options: Any,
) -> None:
    """Search a model's settings; every trial trains an adapter and is logged.

    Without --trials it takes tune.trials of params.yaml. The same command again runs the trials that are missing, also
    after it was killed. With --dry-run it trains nothing and says what the largest trial would take at the published
    size.
    """
    chosen = {name: options.pop(name) for name in ("sampler", "pruner")}
    params = _with(load_params(), **chosen)
    if dry_run != bool(scale) or (dry_run and (trials or sync)) or (memory_gib and not dry_run):
        raise UsageError("a dry run is --dry-run --scale full [--memory-gib G]; a search takes params.yaml's scale")
    params.space_of(model)
    if dry_run:
        from src.sizing.tables import print_dry_run

        print_dry_run(params, model, memory_gib)
        return
    total = trials or params.tune.trials
    if sync:
        _sync(params, model, options, total)
    else:
        _search(params, model, options, total, time_budget)


def _search(params: Params, model: str, options: dict[str, Any], total: int, time_budget: float | None) -> None:
    from src.search.pool import RestartRequired
    from src.search.results import tell_best
    from src.search.session import SearchResources, SearchRun

    heritage = json.loads(os.environ.pop(_RESTART_STATE_ENV, "{}"))
    deadline_s = heritage.get("deadline_s") or (time_budget and time.time() + time_budget)
    session = SearchRun(
        params, model, SearchResources(**_given(options), deadline_s=deadline_s), heritage.get("causes", [])
    )
    try:
        study, best = session.search(total)
    except StopRequested as stopped:
        raise StopRequested(
            f"{stopped}; what is finished is kept. To go on: `{_this_command()}`", stopped.exit_code
        ) from None
    except RestartRequired:
        say("The GPU is of no more use to this process: another one goes on")
        os.environ[_RESTART_STATE_ENV] = json.dumps({"causes": session.causes, "deadline_s": deadline_s})
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 # there is no shell in it
    tell_best(model, study, best, total, load_params().tune)


def _sync(params: Params, model: str, options: dict[str, Any], total: int) -> None:
    from src.search.session import SearchResources, SearchRun

    found, missing = SearchRun(params, model, SearchResources(**_given(options))).sync(total)
    say(f"{model}: MLflow shows all {found} trials of the study; {missing} were missing or not whole there")


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _with(params: Params, **chosen: Any) -> Params:
    return replace(params, tune=replace(params.tune, **_given(chosen)))


def _this_command() -> str:
    return shlex.join(["python", *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()
