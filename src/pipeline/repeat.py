"""Stage `repeat`: the winner of the search and the default settings, trained again on other seeds."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from src.core.config import Params
from src.core.files import atomic_folder, write_table
from src.core.outputs import BestTrial, RepeatOutput
from src.core.paths import BEST_FILE, REPEAT_JSON, stage_folder
from src.experiments.seeds import (
    FIGURES,
    WINNER,
    SeedRun,
    contenders,
    kept_folders,
    summarise,
    train_on_seeds,
)
from src.tracking.client import Tracker, parts_read
from src.tracking.run_logging import open_tracker, run_tags
from src.training.workspace import Workspace, open_workspace


def run_repeat(params: Params, model: str) -> RepeatOutput:
    """Train on other seeds, and write outputs/repeat/<model>/ and an MLflow run.

    Raises:
        UserError: an earlier stage has not run.
    """
    best = BestTrial.read(stage_folder("tune", model) / BEST_FILE)
    settings = contenders(params, model, best.params)
    workspace = open_workspace(params, model)
    # A store that cannot be opened ends the stage here, before anything is trained.
    tracker = open_tracker(model)
    runs = train_on_seeds(params, workspace, settings)
    _copy_winner(model, kept_folders(params, workspace, settings[WINNER]))
    output = summarise(settings, runs, best)
    # A default that equals the winner has no rows of its own.
    distinct = {WINNER: runs[WINNER]} if output.winner_is_default else runs
    _write(params, workspace, tracker, distinct, output)
    return output


def _copy_winner(model: str, folders: Mapping[int, Path]) -> None:
    """Copy predictions and adapters to outputs/seeds/<model>/<seed>/. A training that failed has none."""
    with atomic_folder(stage_folder("seeds", model)) as temporary:
        for seed, folder in folders.items():
            shutil.copytree(folder, temporary / str(seed))


def _write(
    params: Params,
    workspace: Workspace,
    tracker: Tracker,
    runs: Mapping[str, Sequence[SeedRun]],
    output: RepeatOutput,
) -> None:
    model = workspace.model.spec.name
    folder = stage_folder("repeat", model)
    rows = [{"settings": name, **run.row()} for name in runs for run in runs[name]]
    write_table(folder / "runs.csv", rows, ["settings", *SeedRun.columns()])
    output.write(folder / REPEAT_JSON)
    tags = {**run_tags("repeat", workspace.facts(), params.notice), "study": output.study}
    winner = output.settings[WINNER]
    searched = {name: getattr(winner, name) for name in params.space_of(model)}
    with tracker.run("repeat", tags=tags, params=searched) as logged:
        logged.inputs(parts_read("train", "val", "test"))
        for name in runs:
            for run in runs[name]:
                logged.metrics({f"{name}_{figure}": value for figure, value in run.scores.items()}, step=run.seed)
        logged.metrics(metrics_of(output))
        logged.folder(folder, "repeat")


def metrics_of(output: RepeatOutput) -> dict[str, float]:
    """Return the mean and the standard deviation of each spread, under names such as gain_test_macro_f1_mean."""
    spreads = {"drop": output.drop}
    for name, by_figure in {**output.scores, "gain": output.gain}.items():
        spreads |= {f"{name}_{figure}": by_figure[figure] for figure in FIGURES}
    metrics: dict[str, float | None] = {"optimism": output.optimism}
    for name, spread in spreads.items():
        if spread:
            metrics |= {f"{name}_mean": spread.mean, f"{name}_sd": spread.sd}
    return {name: value for name, value in metrics.items() if value is not None}
