"""Stage `train`: trains the winner of the search and keeps its adapter.

python -m src.train --model clip
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from src.core.config import load_params
from src.core.paths import stage_folder
from src.core.records import read_json, write_json, write_predictions, write_table
from src.models.catalog import MODELS
from src.services.terminal import command, model_option, progress, say

if TYPE_CHECKING:
    from src.services.terminal import Progress
    from src.services.tracking import Run


@dataclass(frozen=True)
class _EpochReporter:
    run: "Run"
    bar: "Progress"

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.run.metrics({name: value for name, value in metrics.items() if name != "epoch"}, step=epoch)
        self.bar.note(f"macro-F1 {metrics['val_macro_f1']:.4f}")
        self.bar.advance()


@command(example="python -m src.train --model clip")
@model_option(MODELS)
def main(model: str) -> None:
    """Train the best settings that `tune` found, and keep the weights of the best epoch."""
    params = load_params()
    best = read_json(stage_folder("tune", model) / "best.json")
    settings = params.fit_of(model, **best["params"])
    from src.learning.fitting import fit
    from src.learning.lora import adapted
    from src.learning.metrics import report, scores
    from src.learning.workspace import open_workspace
    from src.services.logbook import log_history, log_scores, open_tracker, run_tags

    workspace = open_workspace(model)
    folder = stage_folder("train", model)
    origin = {"study": best["study"], "trial": best["best_trial"], "trial_run": best["run_id"]}
    tags = {**run_tags("train", workspace.facts(), params.notice), **origin}
    with (
        open_tracker(model).run("train", tags=tags, params=asdict(settings)) as run,
        adapted(workspace.model, settings, params.seed) as adapter,
        progress(settings.epochs, f"{model}: training", "epochs") as bar,
    ):
        train, val = workspace.data("train"), workspace.data("val")
        result = fit(adapter.model, train, val, settings, params.seed, _EpochReporter(run, bar))
        modules, found = adapter.modules(), scores(result.predictions)
        adapter.save(folder / "adapter")
        log_history(run, result.history, f"{model}, training")
        log_scores(run, found, report(result.predictions), f"{model}, validation", "best_val")
        run.metrics({"best_epoch": result.best_epoch})
        run.json("adapted_modules.json", modules)
        run.folder(folder / "adapter", "adapter")
    write_table(folder / "history.csv", result.history)
    write_predictions(folder / "predictions.csv", result.predictions)
    write_json(
        folder / "train.json",
        {
            "name": model,
            "run_id": run.id,
            "best_epoch": result.best_epoch,
            **found.headline(),
            "facts": workspace.facts(),
            "adapted_modules": modules,
        },
    )
    say(f"{model}: best epoch {result.best_epoch} of {len(result.history)}, validation macro-F1 {found.macro_f1:.4f}")


if __name__ == "__main__":
    main()
