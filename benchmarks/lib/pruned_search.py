"""Searches with pruning on both sides of `benchmarks.search`, compared by the winner's test macro-F1.

The project prunes as params.yaml says. The baseline runs twice: without a pruner, and with Optuna's MedianPruner, which
`Trainer.hyperparameter_search` asks after each evaluation. All sides use the same space, sampler and initial trials.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.lib import project_side
from benchmarks.lib.hf_trainer_baseline import TrainerBaseline
from benchmarks.lib.task import Task, Trained, best_of
from benchmarks.lib.timing import Spent, timed
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
SIDES = ("project", "baseline without pruner", "baseline with median pruner")


@dataclass(frozen=True)
class SearchOutcome:
    """The outcome of one search."""

    side: str
    seed: int
    # Epochs trained in all trials together.
    epochs: int
    spent: Spent
    # Of the best trial that was not pruned.
    val_macro_f1: float
    test_macro_f1: float


@dataclass(frozen=True)
class ProjectSearch:
    """The project's search, as its workers need it to open the study and run a trial."""

    # The study's storage.
    url: str
    # Settings that are not searched.
    settings: TrainingConfig
    model: str
    seed: int

    def study(self) -> Study:
        """Open the study, or create it."""
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
        study.enqueue_initial_trials(len(plan.initial_trials))
        return study


def searches(
    task: Task, baseline: TrainerBaseline, settings: TrainingConfig, trials: int, workers: int, seeds: int
) -> list[SearchOutcome]:
    """Run every side's search for every seed. The side that starts rotates with the seed."""
    outcomes = []
    for number in range(seeds):
        seeded_task = replace(task, seed=task.seed + number)
        seeded_baseline = replace(baseline, task=seeded_task)
        for place in range(len(SIDES)):
            side = SIDES[(place + number) % len(SIDES)]
            outcomes.append(_search(side, seeded_task, seeded_baseline, settings, trials, workers))
    return outcomes


def summary(outcomes: Sequence[SearchOutcome]) -> dict[str, dict[str, float]]:
    """Return each side's means over all seeds, and the baselines' ratios to the project."""
    means = {side: _means([outcome for outcome in outcomes if outcome.side == side]) for side in SIDES}
    project = means[SIDES[0]]
    for baseline in (means[side] for side in SIDES[1:]):
        baseline["wall_ratio"] = baseline["wall_s"] / project["wall_s"]
        baseline["cpu_ratio"] = baseline["cpu_s"] / project["cpu_s"]
        baseline["project_ahead_points"] = 100 * (project["test_macro_f1"] - baseline["test_macro_f1"])
    return means


def _means(outcomes: Sequence[SearchOutcome]) -> dict[str, float]:
    columns: Mapping[str, Callable[[SearchOutcome], float]] = {
        "epochs": lambda outcome: outcome.epochs,
        "wall_s": lambda outcome: outcome.spent.wall_s,
        "cpu_s": lambda outcome: outcome.spent.cpu_s,
        "val_macro_f1": lambda outcome: outcome.val_macro_f1,
        "test_macro_f1": lambda outcome: outcome.test_macro_f1,
    }
    return {name: fmean(column(outcome) for outcome in outcomes) for name, column in columns.items()}


def _search(
    side: str, task: Task, baseline: TrainerBaseline, settings: TrainingConfig, num_trials: int, workers: int
) -> SearchOutcome:
    if side == SIDES[0]:
        trials, spent = timed(lambda: _search_project(task, settings, num_trials, workers))
    else:
        trials, spent = timed(lambda: _search_baseline(baseline, settings, num_trials, prunes=side != SIDES[1]))
    complete = [trial for trial in trials if trial.complete]
    if not complete:
        raise UserError(f"{side}: no trial came to its end; ask for more")
    winner = best_of(complete)
    score_on_test = partial(project_side.score_on_test, task) if side == SIDES[0] else baseline.score_on_test
    epochs = sum(len(trial.history) for trial in trials)
    return SearchOutcome(side, task.seed, epochs, spent, winner.macro_f1, score_on_test(winner))


def _search_project(task: Task, settings: TrainingConfig, trials: int, count: int) -> list[Trained]:
    with TemporaryDirectory() as folder, project_side.workers_for(task, count) as workers:
        search = ProjectSearch(f"sqlite:///{folder}/studies.db", settings, task.sized.name, task.seed)
        search.study()  # creates the study before workers open it
        model = task.sized.load()
        project_side.build_cache(model, task, settings, Path(folder))
        return workers.run(model, [partial(_trial, search=search, cache_folder=Path(folder))] * trials)


def _trial(model: ToneModel, task: Task, search: ProjectSearch, cache_folder: Path) -> Trained:
    study = _study_of_worker(search)
    trial = study.ask()
    settings = replace(search.settings, **trial.params)  # type: ignore[arg-type] # parameters are settings
    callback = _PruningCallback(trial)
    try:
        trained = project_side.run_trial(model, task, settings, cache_folder, callback)
    except UserError as error:
        study.fail(trial.number, str(error))
        return Trained(settings, tuple(callback.rows), {}, complete=False)
    if callback.pruned:
        study.prune(trial.number)
        return replace(trained, complete=False)
    study.tell(trial.number, trained.macro_f1)
    return trained


@cache
def _study_of_worker(search: ProjectSearch) -> Study:
    return search.study()


class _PruningCallback:
    """A callback that reports each epoch's score to the pruner, as `tune` does."""

    def __init__(self, trial: RunningTrial) -> None:
        self.trial = trial
        self.rows: list[Mapping[str, float]] = []
        self.pruned = False

    def on_batch(self) -> None:
        pass

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        self.rows.append(metrics)
        self.pruned = not self.trial.report(epoch, metrics)
        return not self.pruned


def _search_baseline(baseline: TrainerBaseline, settings: TrainingConfig, trials: int, prunes: bool) -> list[Trained]:
    import optuna

    from src.search.samplers import suggest

    params = load_params()
    model = baseline.task.sized.name
    space = params.space_of(model)
    storage = optuna.storages.InMemoryStorage()
    sampler = optuna.samplers.TPESampler(
        multivariate=True, n_startup_trials=params.tune.startup_trials, seed=baseline.task.seed
    )
    _enqueue_initial_trials(params, model, storage)

    def choose(trial: "optuna.Trial") -> TrainingConfig:
        drawn = from_even(space, suggest(trial, even(space)))
        return replace(settings, **drawn)  # type: ignore[arg-type] # parameters are settings

    return baseline.search(
        choose,
        settings,
        trials,
        storage=storage,
        study_name=NAME,
        load_if_exists=True,
        sampler=sampler,
        pruner=optuna.pruners.MedianPruner() if prunes else optuna.pruners.NopPruner(),
    )


def _enqueue_initial_trials(params: Params, model: str, storage: Any) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=storage, study_name=NAME, direction="maximize")
    for settings in params.tune.initial_trials.get(model, ()):
        study.enqueue_trial(to_even(params.space_of(model), settings))
