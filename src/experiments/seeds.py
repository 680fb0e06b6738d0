"""Trainings of the same settings on several seeds, and the spread of their scores.

The best score of a search is the highest of many, so it overestimates its settings. Seeds that had no part in the
choice show by how much, and whether the winner is better than the settings that were known before the search.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from src.cli.output import EpochBar, Progress, progress, warn
from src.core.config import Params
from src.core.errors import DivergenceError, first_line
from src.core.estimates import Spread
from src.core.files import atomic_folder, read_table, write_table
from src.core.locks import try_lock
from src.core.outputs import BestTrial, RepeatOutput
from src.core.paths import (
    ADAPTER_FOLDER,
    KEPT,
    PREDICTIONS_FILE,
    VAL_PREDICTIONS_FILE,
    seed_runs_file,
    seed_runs_folder,
)
from src.core.provenance import training_key
from src.core.records import write_predictions
from src.core.training_config import TrainingConfig
from src.evaluation.intervals import spread_of
from src.training.train_and_test import TestedTraining, train_and_test
from src.training.trainer import TrainingContext
from src.training.workspace import Workspace

WINNER, DEFAULT = "winner", "default"
FIGURES = ("val_macro_f1", "val_accuracy", "test_macro_f1", "test_accuracy")


@dataclass(frozen=True)
class SeedRun:
    """One training on one seed."""

    seed: int
    # The number of epochs that the training took.
    epochs: int
    # Shares between 0 and 1 by the names in `FIGURES`. Empty after a failure.
    scores: Mapping[str, float]
    # The reason of a failure. Empty on success.
    failure: str = ""

    @staticmethod
    def columns() -> list[str]:
        """Return the columns of a table of trainings."""
        return ["seed", "epochs", *FIGURES, "failure"]

    def row(self) -> dict[str, Any]:
        """Return the training as a row of a table."""
        figures = {name: self.scores.get(name) for name in FIGURES}
        return {"seed": self.seed, "epochs": self.epochs, **figures, "failure": self.failure}

    @classmethod
    def of_row(cls, row: Mapping[str, str]) -> "SeedRun":
        """Build the training from a row of a table."""
        figures = {name: float(row[name]) for name in FIGURES if row[name]}
        return cls(int(row["seed"]), int(row["epochs"]), figures, row["failure"])


@dataclass
class RunCache:
    """The finished trainings of one model, in files that outlive a kill and a rerun of the stage.

    The key of a training covers everything that its scores depend on, so a changed training is not in the cache.
    """

    # A table of scores.
    path: Path
    # Folders of predictions and adapters, by key.
    folder: Path
    runs: dict[str, SeedRun] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.is_file():
            self._read()

    def _read(self) -> None:
        self.runs = {row["key"]: SeedRun.of_row(row) for row in read_table(self.path)}

    def has(self, key: str) -> bool:
        """Return whether a training is finished, with its predictions and adapter unless it failed."""
        return key in self.runs and (bool(self.runs[key].failure) or (self.folder / key).is_dir())

    def add(self, key: str, run: SeedRun) -> None:
        """Write a training to the file."""
        self.runs[key] = run
        write_table(self.path, [{"key": key, **run.row()} for key, run in self.runs.items()])
        # The file rounds scores. Reading them back makes this call and a later one compute from the same numbers.
        self._read()


def contenders(params: Params, model: str, chosen: Mapping[str, Any]) -> dict[str, TrainingConfig]:
    """Return the settings to train: those of the winner, and the default if params.yaml has initial trials.

    The default is the first initial trial with the winner's epochs and patience, so both have the same budget. The two
    may be equal.

    Args:
        params: the settings of params.yaml.
        model: the name in the catalog.
        chosen: the parameters of the search's best trial.
    """
    winner = params.training_config(model, **chosen)
    initial = params.tune.initial_trials.get(model, ())
    if not initial:
        return {WINNER: winner}
    default = replace(params.training_config(model, **initial[0]), epochs=winner.epochs, patience=winner.patience)
    return {WINNER: winner, DEFAULT: default}


def train_on_seeds(
    params: Params, workspace: Workspace, settings: Mapping[str, TrainingConfig]
) -> dict[str, list[SeedRun]]:
    """Train all settings on the seeds that follow `params.seed`, and return the trainings by settings.

    A training of an earlier call is taken from the cache, and equal settings are trained once.

    Raises:
        UserError: another process trains this model on other seeds.
    """
    model = workspace.model.spec.name
    with try_lock(KEPT / f"repeat-{model}.lock", f"trainings of {model} on other seeds"):
        cache = _cache_of(model)
        keys = {name: _keys(params, workspace, config) for name, config in settings.items()}
        missing = {
            key: (config, seed)
            for name, config in settings.items()
            for seed, key in keys[name].items()
            if not cache.has(key)
        }
        num_epochs = sum(config.epochs for config, _ in missing.values())
        with progress(num_epochs, f"{model}: other seeds", "epochs") as bar:
            for key, (config, seed) in missing.items():
                # The folder comes first: a training counts once its scores are in the table.
                cache.add(key, _train(params, workspace, config, seed, bar, cache.folder / key))
    return {name: [cache.runs[key] for key in keys[name].values()] for name in settings}


def kept_folders(params: Params, workspace: Workspace, config: TrainingConfig) -> dict[int, Path]:
    """Return the folders with predictions and adapter of finished trainings of the settings, by seed.

    A training that failed has none.
    """
    folder = seed_runs_folder(workspace.model.spec.name)
    folders = {seed: folder / key for seed, key in _keys(params, workspace, config).items()}
    return {seed: folder for seed, folder in folders.items() if folder.is_dir()}


def _cache_of(model: str) -> RunCache:
    return RunCache(seed_runs_file(model), seed_runs_folder(model))


def _keys(params: Params, workspace: Workspace, config: TrainingConfig) -> dict[int, str]:
    """Return the key of each training of the settings, by seed."""
    facts = workspace.facts()
    seeds = range(params.seed + 1, params.seed + 1 + params.repeat.seeds)
    return {seed: training_key(config, facts, seed) for seed in seeds}


def _train(
    params: Params, workspace: Workspace, config: TrainingConfig, seed: int, bar: Progress, folder: Path
) -> SeedRun:
    callback = EpochBar(bar, f"seed {seed}")
    context = TrainingContext(seed, callback)
    try:
        with atomic_folder(folder) as temporary:
            tested = train_and_test(workspace, config, context, params.evaluate.batch_size, temporary / ADAPTER_FOLDER)
            _write_predictions(temporary, tested)
    except DivergenceError as error:
        reason = first_line(error)
        warn(f"seed {seed}: {reason}")
        return SeedRun(seed, callback.epochs, {}, reason)
    finally:
        # Epochs that early stopping or a failure left out are done as far as the bar is concerned.
        bar.advance(config.epochs - callback.epochs)
    scores = tested.scores()
    return SeedRun(seed, callback.epochs, {name: scores[name] for name in FIGURES})


def _write_predictions(folder: Path, tested: TestedTraining) -> None:
    write_predictions(folder / PREDICTIONS_FILE, tested.test)
    write_predictions(folder / VAL_PREDICTIONS_FILE, tested.training.predictions)


def summarise(
    settings: Mapping[str, TrainingConfig], runs: Mapping[str, Sequence[SeedRun]], best: BestTrial
) -> RepeatOutput:
    """Compute the spreads of the scores, of the winner's gain on the default, and of its drop from val to test.

    Args:
        settings: the trained settings, by `WINNER` and `DEFAULT`.
        runs: their trainings, under the same keys.
        best: the best trial of the search.
    """
    val = _by_seed(runs[WINNER], "val_macro_f1")
    mean_val = _spread(val)
    return RepeatOutput(
        study=best.study,
        seeds=tuple(run.seed for run in runs[WINNER]),
        settings=settings,
        winner_is_default=settings[WINNER] == settings.get(DEFAULT),
        best_val_macro_f1=best.best_val_macro_f1,
        optimism=None if mean_val is None else best.best_val_macro_f1 - mean_val.mean,
        drop=_spread(_differences(val, _by_seed(runs[WINNER], "test_macro_f1"))),
        scores=scores_by_settings(runs),
        gain=differences(runs[WINNER], runs.get(DEFAULT, ())),
        failures=failures_of(runs),
    )


def scores_by_settings(runs: Mapping[str, Sequence[SeedRun]]) -> dict[str, dict[str, Spread | None]]:
    """Return the spread of each figure over the seeds, by settings."""
    return {name: {figure: _spread(_by_seed(rows, figure)) for figure in FIGURES} for name, rows in runs.items()}


def differences(first: Sequence[SeedRun], second: Sequence[SeedRun]) -> dict[str, Spread | None]:
    """Return the spread of each figure's difference, first less second, paired by seed."""
    return {figure: _spread(_differences(_by_seed(first, figure), _by_seed(second, figure))) for figure in FIGURES}


def failures_of(runs: Mapping[str, Sequence[SeedRun]]) -> dict[str, str]:
    """Return the reason of each failure, by settings and seed."""
    return {f"{name}, seed {run.seed}": run.failure for name in runs for run in runs[name] if run.failure}


def _by_seed(runs: Sequence[SeedRun], figure: str) -> dict[int, float]:
    return {run.seed: run.scores[figure] for run in runs if figure in run.scores}


def _differences(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    """Return the differences of the seeds that both have."""
    return {seed: value - second[seed] for seed, value in first.items() if seed in second}


def _spread(values: Mapping[int, float]) -> Spread | None:
    return spread_of(list(values.values())) if values else None
