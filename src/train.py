"""Stage `train`: trains the winner of the search and keeps its adapter.

python -m src.train --model clip
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from src.core.config import load_params
from src.core.launch import main_first
from src.core.paths import stage_folder
from src.core.protocols import Reporter, Silent
from src.core.records import read_json, write_json, write_predictions, write_table
from src.core.settings import FitParams
from src.models.catalog import MODELS
from src.services.terminal import command, model_option, progress, say

if TYPE_CHECKING:
    from src.learning.fitting import Fit
    from src.learning.parallel import Parallel
    from src.learning.workspace import Workspace
    from src.services.terminal import Progress
    from src.services.tracking import Run


@dataclass(frozen=True)
class _EpochReporter:
    run: "Run"
    bar: "Progress"

    def on_step(self) -> None:
        pass

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        self.run.metrics({name: value for name, value in metrics.items() if name != "epoch"}, step=epoch)
        self.bar.note(f"macro-F1 {metrics['val_macro_f1']:.4f}")
        self.bar.advance()
        return True


@command(example="python -m src.train --model clip")
@model_option(MODELS)
@main_first()
def main(model: str) -> None:
    """Train the best settings that `tune` found, and keep the weights of the best epoch.

    On several GPUs: accelerate launch --config_file configs/ddp.yaml -m src.train --model clip
    """
    params = load_params()
    best = read_json(stage_folder("tune", model) / "best.json")
    settings = params.fit_of(model, **best["params"])
    from src.learning.parallel import open_parallel
    from src.learning.workspace import open_workspace

    with open_parallel() as parallel:
        workspace = open_workspace(model)
        training = Training(workspace, settings, params.seed, parallel)
        if parallel.is_main:
            _record(training, best, params.notice)
        else:
            training.run(Silent())


@dataclass(frozen=True)
class Training:
    """One training, which all processes run alike."""

    workspace: "Workspace"
    settings: FitParams
    seed: int
    parallel: "Parallel"

    def run(self, reporter: Reporter) -> tuple["Fit", list[str]]:
        """Train an adapter and save it; returns also the names of the modules that carry it."""
        from src.learning.fitting import fit
        from src.learning.lora import adapted

        with adapted(self.workspace.model, self.settings, self.seed) as adapter:
            # Whoever comes first encodes what the cache lacks. The others wait for a lock, which no time limit ends.
            train, val = self.workspace.data("train"), self.workspace.data("val")
            result = fit(adapter.model, train, val, self.settings, self.seed, reporter, self.parallel)
            folder = stage_folder("train", self.workspace.model.spec.name)
            adapter.save(folder / "adapter", write=self.parallel.is_main)
            return result, adapter.modules()


def _record(training: Training, best: Mapping[str, Any], notice: str) -> None:
    """Train, and write, log and say what came of it."""
    from src.learning.metrics import report, scores
    from src.services.datasets import parts_read
    from src.services.logbook import log_history, log_scores, open_tracker, run_tags

    model, facts = training.workspace.model.spec.name, training.workspace.facts()
    folder, epochs = stage_folder("train", model), training.settings.epochs
    origin = {"study": best["study"], "trial": best["best_trial"], "trial_run": best["run_id"]}
    how = {"processes": training.parallel.num_processes, "sharded": training.parallel.sharded}
    tags = {**run_tags("train", facts, notice), **origin, **how}
    with (
        open_tracker(model).run("train", tags=tags, params=best["params"]) as run,
        progress(epochs, f"{model}: training", "epochs") as bar,
    ):
        run.inputs(parts_read("train", "val"))
        run.json("settings.json", asdict(training.settings))
        run.watch()
        result, modules = training.run(_EpochReporter(run, bar))
        found = scores(result.predictions)
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
            "facts": facts,
            "adapted_modules": modules,
        },
    )
    say(f"{model}: best epoch {result.best_epoch} of {len(result.history)}, validation macro-F1 {found.macro_f1:.4f}")


if __name__ == "__main__":
    main()
