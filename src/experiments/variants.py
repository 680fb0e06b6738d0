"""What a setting is worth: the winner of a search against the same settings with some changed, on the same seeds.

It judges settings that a search did not vary, such as the positions of adapters, or that it cannot settle, because a
search trains each of its settings on one seed.

Two things vary, and each has an interval of its own: trainings differ by seed (Student's t of the paired differences),
and the test part is one draw of posts (bootstrap of groups, with the trainings as they are).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from src.core.config import Params, RepeatParams
from src.core.errors import UsageError
from src.core.files import write_table
from src.core.outputs import BestTrial, VariantOutput
from src.core.paths import BEST_FILE, GROUPS, PREDICTIONS_FILE, stage_folder
from src.core.records import Prediction, read_groups, read_predictions
from src.core.training_config import Setting, TrainingConfig
from src.evaluation.seed_means import mean_differences
from src.experiments.seeds import (
    WINNER,
    SeedRun,
    differences,
    failures_of,
    kept_folders,
    scores_by_settings,
    train_on_seeds,
)
from src.tracking.client import Tracker, parts_read
from src.tracking.run_logging import open_tracker, run_tags
from src.training.workspace import Workspace, open_workspace

VARIANT = "variant"
Changes = Mapping[str, Setting | bool]


def variant_folder(model: str, changes: Changes) -> Path:
    """Return the folder of a variant, such as outputs/variants/clip/rank=16,alpha=32."""
    return stage_folder("variants", model) / ",".join(f"{name}={value}" for name, value in changes.items())


def run_variant(params: Params, model: str, changes: Changes, num_seeds: int | None = None) -> VariantOutput:
    """Train the winner and its variant on the same seeds, and write `variant_folder` and an MLflow run.

    A training that an earlier call or stage `repeat` has finished is not repeated.

    Args:
        params: the settings of params.yaml.
        model: the name in the catalog.
        changes: values of `TrainingConfig` that take the place of the winner's.
        num_seeds: the number of seeds; None for `repeat.seeds`.

    Raises:
        UsageError: the changes are no settings, or change nothing, or there are no seeds.
        UserError: an earlier stage has not run.
    """
    best = BestTrial.read(stage_folder("tune", model) / BEST_FILE)
    params = replace(params, repeat=RepeatParams(seeds=params.repeat.seeds if num_seeds is None else num_seeds))
    if not params.repeat.seeds:
        raise UsageError("repeat.seeds is 0 in params.yaml: give --seeds, such as 3")
    winner = params.training_config(model, **best.params)
    variant = params.training_config(model, **{**best.params, **changes})
    if variant == winner:
        raise UsageError(f"{model}: the winner of the search has these settings already")
    # The variant comes first: changes that the model refuses cost no training.
    settings = {VARIANT: variant, WINNER: winner}
    group_of = read_groups(GROUPS)
    workspace = open_workspace(params, model)
    tracker = open_tracker(model)
    runs = train_on_seeds(params, workspace, settings)
    predictions = {name: _predictions(params, workspace, config) for name, config in settings.items()}
    output = VariantOutput(
        study=best.study,
        seeds=tuple(run.seed for run in runs[VARIANT]),
        settings=settings,
        scores=scores_by_settings(runs),
        difference=differences(runs[VARIANT], runs[WINNER]),
        over_posts=mean_differences(predictions[VARIANT], predictions[WINNER], group_of, params.seed),
        failures=failures_of(runs),
    )
    _write(params, workspace, tracker, changes, runs, output)
    return output


def _write(
    params: Params,
    workspace: Workspace,
    tracker: Tracker,
    changes: Changes,
    runs: Mapping[str, Sequence[SeedRun]],
    output: VariantOutput,
) -> None:
    folder = variant_folder(workspace.model.spec.name, changes)
    rows = [{"settings": name, **run.row()} for name in runs for run in runs[name]]
    write_table(folder / "runs.csv", rows, ["settings", *SeedRun.columns()])
    output.write(folder / "variant.json")
    tags = {**run_tags(VARIANT, workspace.facts(), params.notice), "study": output.study}
    with tracker.run(VARIANT, tags=tags, params=dict(changes)) as logged:
        logged.inputs(parts_read("train", "val", "test"))
        logged.metrics({f"difference_{figure}": spread.mean for figure, spread in output.difference.items() if spread})
        logged.folder(folder, VARIANT)


def _predictions(params: Params, workspace: Workspace, config: TrainingConfig) -> dict[int, list[Prediction]]:
    """Return the test predictions of each training of the settings that succeeded, by seed."""
    folders = kept_folders(params, workspace, config)
    return {seed: read_predictions(folder / PREDICTIONS_FILE) for seed, folder in folders.items()}
