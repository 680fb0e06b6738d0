"""Searches that give up on bad trials, by both sides of `benchmarks.search`, judged by the winner's test macro-F1.

Ours prunes as params.yaml says. The peer runs twice: to every trial's end, and with Optuna's MedianPruner as it comes,
which `Trainer.hyperparameter_search` asks after each evaluation. All draw from the same space with the same sampler and
try the settings known to be good first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks import ours
from benchmarks.clock import Spent, timed
from benchmarks.peer import Peer
from benchmarks.task import Task, Trained, best_of
from src.core.config import Params, load_params
from src.core.errors import UserError
from src.core.training_config import TrainingConfig
from src.modeling.base import ToneModel
from src.search.plan import StudyPlan
from src.search.space import even, from_even, to_even
from src.search.study import RunningTrial, Study, open_study

if TYPE_CHECKING:
    import optuna

NAME = "search"
SIDES = ("ours", "peer without pruner", "peer with median pruner")


@dataclass(frozen=True)
class Found:
    """One search: epochs trained in all, what it took, and the macro-F1 of the best trial that was not pruned."""

    side: str
    seed: int
    epochs: int
    spent: Spent
    val_macro_f1: float
    test_macro_f1: float


@dataclass(frozen=True)
class Search:
    """Our side's search: where its study is, and what a trial draws does not say."""

    url: str
    settings: TrainingConfig
    model: str
    seed: int

    def study(self) -> Study:
        """The study, made if it is not there."""
        params = load_params()
        tune = params.tune
        plan = StudyPlan(
            name=NAME,
            space=params.space_of(self.model),
            initial_trials=tune.initial_trials.get(self.model, ()),
            seed=self.seed,
            startup_trials=tune.startup_trials,
            pruner=tune.pruner,
            min_epochs=tune.min_epochs,
            max_epochs=self.settings.epochs,
            reduction_factor=tune.reduction_factor,
        )
        study = open_study(self.url, plan)
        study.enqueue_known_good(len(plan.initial_trials))
        return study


def searches(task: Task, peer: Peer, settings: TrainingConfig, trials: int, workers: int, seeds: int) -> list[Found]:
    """Every side's search, seed by seed; which of them begins goes round."""
    found = []
    for number in range(seeds):
        seeded = replace(task, seed=task.seed + number)
        other = replace(peer, task=seeded)
        for place in range(len(SIDES)):
            side = SIDES[(place + number) % len(SIDES)]
            found.append(_search(side, seeded, other, settings, trials, workers))
    return found


def summary(found: Sequence[Found]) -> dict[str, dict[str, float]]:
    """Of each side the means over all seeds, and of the peers' how they compare with ours."""
    means = {side: _means([one for one in found if one.side == side]) for side in SIDES}
    mine = means[SIDES[0]]
    for theirs in (means[side] for side in SIDES[1:]):
        theirs["wall_ratio"] = theirs["wall_s"] / mine["wall_s"]
        theirs["cpu_ratio"] = theirs["cpu_s"] / mine["cpu_s"]
        theirs["ours_ahead_points"] = 100 * (mine["test_macro_f1"] - theirs["test_macro_f1"])
    return means


def _means(found: Sequence[Found]) -> dict[str, float]:
    columns: Mapping[str, Callable[[Found], float]] = {
        "epochs": lambda one: one.epochs,
        "wall_s": lambda one: one.spent.wall_s,
        "cpu_s": lambda one: one.spent.cpu_s,
        "val_macro_f1": lambda one: one.val_macro_f1,
        "test_macro_f1": lambda one: one.test_macro_f1,
    }
    return {name: fmean(column(one) for one in found) for name, column in columns.items()}


def _search(side: str, task: Task, peer: Peer, settings: TrainingConfig, trials: int, workers: int) -> Found:
    if side == SIDES[0]:
        found, spent = timed(lambda: _ours(task, settings, trials, workers))
    else:
        found, spent = timed(lambda: _peer(peer, settings, trials, prunes=side != SIDES[1]))
    complete = [trial for trial in found if trial.complete]
    if not complete:
        raise UserError(f"{side}: no trial came to its end; ask for more")
    winner = best_of(complete)
    test = ours.score_on_test(task, winner) if side == SIDES[0] else peer.score_on_test(winner)
    return Found(side, task.seed, sum(len(each.history) for each in found), spent, winner.macro_f1, test)


def _ours(task: Task, settings: TrainingConfig, trials: int, count: int) -> list[Trained]:
    with TemporaryDirectory() as folder, ours.workers_for(task, count) as workers:
        search = Search(f"sqlite:///{folder}/studies.db", settings, task.sized.name, task.seed)
        search.study()  # made by one process, before others open it
        model = task.sized.load()
        ours.build_cache(model, task, settings, Path(folder))
        return workers.run(model, [partial(_trial, search=search, cache_folder=Path(folder))] * trials)


def _trial(model: ToneModel, task: Task, search: Search, cache_folder: Path) -> Trained:
    study = _study_of_worker(search)
    ticket = study.ask()
    settings = replace(search.settings, **ticket.params)  # type: ignore[arg-type] # the space is one of settings
    reporter = _Reporter(ticket)
    try:
        trained = ours.run_trial(model, task, settings, cache_folder, reporter)
    except UserError as refusal:
        study.fail(ticket.number, str(refusal))
        return Trained(settings, tuple(reporter.rows), {}, complete=False)
    if reporter.pruned:
        study.prune(ticket.number)
        return replace(trained, complete=False)
    study.tell(ticket.number, trained.macro_f1)
    return trained


@cache
def _study_of_worker(search: Search) -> Study:
    return search.study()


class _Reporter:
    """Passes each epoch's score on to the pruner, as the command `tune` does."""

    def __init__(self, ticket: RunningTrial) -> None:
        self.ticket = ticket
        self.rows: list[Mapping[str, float]] = []
        self.pruned = False

    def on_step(self) -> None:
        pass

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        self.rows.append(metrics)
        self.pruned = not self.ticket.report(epoch, metrics)
        return not self.pruned


def _peer(peer: Peer, settings: TrainingConfig, trials: int, prunes: bool) -> list[Trained]:
    import optuna

    from src.search.samplers import suggest

    params, model = load_params(), peer.task.sized.name
    space = params.space_of(model)
    storage = optuna.storages.InMemoryStorage()
    sampler = optuna.samplers.TPESampler(
        multivariate=True, n_startup_trials=params.tune.startup_trials, seed=peer.task.seed
    )
    _queue(params, model, storage)

    def choose(trial: "optuna.Trial") -> TrainingConfig:
        drawn = from_even(space, suggest(trial, even(space)))
        return replace(settings, **drawn)  # type: ignore[arg-type] # the space is one of settings

    return peer.search(
        choose,
        settings,
        trials,
        storage=storage,
        study_name=NAME,
        load_if_exists=True,
        sampler=sampler,
        pruner=optuna.pruners.MedianPruner() if prunes else optuna.pruners.NopPruner(),
    )


def _queue(params: Params, model: str, storage: Any) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=storage, study_name=NAME, direction="maximize")
    for settings in params.tune.initial_trials.get(model, ()):
        study.enqueue_trial(to_even(params.space_of(model), settings))
