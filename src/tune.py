"""Stage `tune`: search a model's settings with Optuna, each trial a run in MLflow.

python -m src.tune --model tinyllava --trials 30
python -m src.tune --model tinyllava --trials 30 --workers 4
python -m src.tune --model tinyllava --sync
python -m src.tune --model llava --scale full --dry-run --memory-gib 32
python -m src.tune --model tinyllava --try rank=16,lr=3e-4

The study's storage is the truth about a search, so the same command again runs only the missing trials. The second
command searches with four workers. The third rebuilds MLflow's runs from the storage. The fourth prints what a search
at the published size would take, and needs no weights. The last one asks a search that runs for a trial of these
settings.
"""

from dataclasses import replace
from functools import partial
from typing import Any, get_args

import click
from click.core import ParameterSource

from src.cli.options import command, model_option, option_group, seconds_of
from src.cli.output import say
from src.core.config import Params, Pruning, Sampling, load_params
from src.core.errors import UsageError
from src.modeling.hub import go_offline_if_hub_unreachable
from src.models.catalog import MODELS

# The options that may stand beside a request, because they name the study.
_STUDY = {"--model", "--storage", "--sampler", "--pruner"}


def _keep_request(context: click.Context, option: click.Parameter, value: Any) -> None:
    if context.get_parameter_source(option.name or "") == ParameterSource.COMMANDLINE:
        context.meta[option.opts[0]] = value


_steering = partial(
    option_group("To steer a search that runs, from another terminal"), expose_value=False, callback=_keep_request
)


def _request(context: click.Context) -> tuple[Any, Any] | None:
    """Return the steering option of the command line with its value, if there is one.

    Raises:
        UsageError: there are two, or an option of the search itself.
    """
    sources = {param.opts[0]: context.get_parameter_source(param.name or "") for param in context.command.params}
    given = [option for option, source in sources.items() if source == ParameterSource.COMMANDLINE]
    requests = [option for option in given if option in context.meta]
    others = [option for option in given if option not in _STUDY and option not in requests[:1]]
    if requests and others:
        raise UsageError(f"{requests[0]} and {others[0]}: give one request at a time, without options of a search")
    return (requests[0], context.meta[requests[0]]) if requests else None


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
@click.option("--like", metavar="STUDY", help="Begin with the best settings of another study in the same storage.")
@click.option("--like-best", type=click.IntRange(min=1), default=3, help="With --like: so many of its trials.")
@click.option("--sync", is_flag=True, help="Train nothing; bring MLflow up to date with the study's storage.")
@click.option("--dry-run", is_flag=True, help="Print what a search would take; needs --scale full.")
@click.option("--scale", type=click.Choice(["full"]), help="With --dry-run: the published size.")
@click.option(
    "--memory-gib",
    type=click.FloatRange(min=0, min_open=True),
    help="With --dry-run: the memory of the GPU.  [default: 32]",
)
@_steering("--try", metavar="NAME=VALUE,...", help="Queue a trial. The sampler draws settings not named.")
@_steering("--clone", metavar="N[,NAME=VALUE,...]", help="Queue a trial with the settings of trial N, and changes.")
@_steering("--stop-trial", type=click.IntRange(min=0), metavar="N", help="End trial N at its next step, as pruned.")
@_steering("--more", type=click.IntRange(min=1), metavar="COUNT", help="Raise the search's number of trials.")
@_steering("--pause", is_flag=True, help="Begin no new trial until --resume.")
@_steering("--resume", is_flag=True, help="Begin new trials again.")
@click.pass_context
def main(
    context: click.Context,
    /,
    model: str,
    trials: int | None,
    time_budget: float | None,
    sync: bool,
    dry_run: bool,
    scale: str | None,
    memory_gib: float | None,
    like: str | None,
    like_best: int,
    **options: Any,
) -> None:
    """Search a model's settings. Each trial trains an adapter and is logged.

    Without --trials, tune.trials of params.yaml counts. The same command again runs the missing trials, also after it
    was killed. With --dry-run it trains nothing, and prints what the largest trial would take at the published size.
    Requests to a search that runs go through its storage, and wait there if no search runs.
    """
    request = _request(context)
    usual = load_params()
    given = {name: value for name, value in options.items() if value is not None}
    overrides = {name: given.pop(name) for name in ("sampler", "pruner") if name in given}
    params = replace(usual, tune=replace(usual.tune, **overrides))
    if dry_run != bool(scale) or (dry_run and (trials or sync)) or (memory_gib and not dry_run):
        raise UsageError("a dry run is --dry-run --scale full [--memory-gib G]; a search takes params.yaml's scale")
    if like and (dry_run or sync):
        raise UsageError("--like begins a search, so it goes without --dry-run and --sync")
    params.space_of(model)
    if dry_run:
        _dry_run(params, model, memory_gib)
        return
    from src.pipeline.tune import run_search, run_steering, run_sync
    from src.search.session import SearchResources
    from src.search.warm_start import WarmStart

    resources = SearchResources(**given)
    total = trials or params.tune.trials
    if request:
        say(run_steering(params, model, resources, *request))
        return
    if sync:
        shown, missing = run_sync(params, model, resources, total)
        say(f"{model}: MLflow shows all {shown} trials of the study; {missing} were missing or incomplete there")
        return
    warm_start = WarmStart(like, like_best) if like else None
    result = run_search(params, model, resources, total, time_budget, warm_start)
    is_option = context.get_parameter_source("storage") == ParameterSource.COMMANDLINE
    for line in result.lines(usual, resources.storage if is_option else None):
        say(line)


def _dry_run(params: Params, model: str, memory_gib: float | None) -> None:
    checkpoint = params.checkpoint(model)
    if checkpoint and checkpoint.hub:
        go_offline_if_hub_unreachable()
    from src.sizing.tables import print_dry_run

    print_dry_run(params, model, memory_gib)


if __name__ == "__main__":
    main()
