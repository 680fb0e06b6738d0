"""Stage `tune`: search a model's settings with Optuna, each trial a run in MLflow.

python -m src.tune --model tinyllava --trials 30
python -m src.tune --model tinyllava --trials 30 --workers 4
python -m src.tune --model tinyllava --sync
python -m src.tune --model llava --scale full --dry-run --memory-gib 32

The study's storage is the truth about a search, so the same command again runs only the missing trials. The second
command searches with four workers. The third rebuilds MLflow's runs from the storage. The last one prints what a search
at the published size would take, and needs no weights.
"""

from dataclasses import replace
from typing import Any, get_args

import click
from click.core import ParameterSource

from src.cli.options import command, model_option, seconds_of
from src.cli.output import say
from src.core.config import Pruning, Sampling, load_params
from src.core.errors import UsageError
from src.modeling.hub import go_offline_if_hub_unreachable
from src.models.catalog import MODELS


def _seconds(context: click.Context, option: click.Parameter, given: str | None) -> float | None:
    return None if given is None else seconds_of(given)


@command(example="python -m src.tune --model tinyllava --trials 30 --workers 4")
@model_option(MODELS)
@click.option("--trials", type=click.IntRange(min=1), help="Finished trials in all, earlier ones included.")
@click.option("--time-budget", callback=_seconds, metavar="TIME", help="Begin no trial after this time, such as 6h.")
@click.option("--sampler", type=click.Choice(get_args(Sampling)), help="Replace tune.sampler.")
@click.option("--pruner", type=click.Choice(get_args(Pruning)), help="Replace tune.pruner.")
@click.option("--storage", envvar="MVSA_STORAGE", help="Storage of the study: an SQLAlchemy URL or grpc://HOST:PORT.")
@click.option("--workers", type=click.IntRange(min=1), default=1, envvar="MVSA_WORKERS", help="More than 1 need Ray.")
@click.option("--ray-address", envvar="MVSA_RAY_ADDRESS", help="Join a running Ray cluster; else one is started.")
@click.option("--gpus-per-trial", type=click.FloatRange(min=0), help="A worker's share.  [default: 1 if there is any]")
@click.option("--cpus-per-trial", type=click.IntRange(min=1), help="A worker's share.  [default: an even one]")
@click.option("--sync", is_flag=True, help="Train nothing; bring MLflow up to date with the study's storage.")
@click.option("--dry-run", is_flag=True, help="Print what a search would take; needs --scale full.")
@click.option("--scale", type=click.Choice(["full"]), help="With --dry-run: the published size.")
@click.option(
    "--memory-gib",
    type=click.FloatRange(min=0, min_open=True),
    help="With --dry-run: the memory of the GPU.  [default: 32]",
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
    """Search a model's settings. Each trial trains an adapter and is logged.

    Without --trials, tune.trials of params.yaml counts. The same command again runs the missing trials, also after it
    was killed. With --dry-run it trains nothing, and prints what the largest trial would take at the published size.
    """
    usual = load_params()
    given = {name: value for name, value in options.items() if value is not None}
    overrides = {name: given.pop(name) for name in ("sampler", "pruner") if name in given}
    params = replace(usual, tune=replace(usual.tune, **overrides))
    if dry_run != bool(scale) or (dry_run and (trials or sync)) or (memory_gib and not dry_run):
        raise UsageError("a dry run is --dry-run --scale full [--memory-gib G]; a search takes params.yaml's scale")
    params.space_of(model)
    if dry_run:
        checkpoint = params.checkpoint(model)
        if checkpoint and checkpoint.hub:
            go_offline_if_hub_unreachable()
        from src.sizing.tables import print_dry_run

        print_dry_run(params, model, memory_gib)
        return
    from src.pipeline.tune import run_search, run_sync
    from src.search.session import SearchResources

    resources = SearchResources(**given)
    total = trials or params.tune.trials
    if sync:
        shown, missing = run_sync(params, model, resources, total)
        say(f"{model}: MLflow shows all {shown} trials of the study; {missing} were missing or incomplete there")
        return
    result = run_search(params, model, resources, total, time_budget)
    is_option = click.get_current_context().get_parameter_source("storage") == ParameterSource.COMMANDLINE
    for line in result.lines(usual.tune, resources.storage if is_option else None):
        say(line)


if __name__ == "__main__":
    main()
