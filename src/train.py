"""Stage `train`: trains the winner of the search and keeps its adapter.

python -m src.train --model clip
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from src.core.config import load_params
from src.core.launch import main_first
from src.core.locks import exclusive
from src.core.paths import KEPT, UNFINISHED, stage_folder
from src.core.protocols import Reporter, Silent
from src.core.records import read_json, write_json, write_predictions, write_table
from src.core.settings import FitParams
from src.models.catalog import MODELS
from src.services.terminal import command, model_option, progress, say

if TYPE_CHECKING:
    from src.learning.fitting import Fit
    from src.learning.keeping import Keeper
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

    The same command after it was killed goes on from the last epoch, to the same result.

    On several GPUs: accelerate launch --config_file configs/ddp.yaml -m src.train --model clip
    """
    params = load_params()
    best = read_json(stage_folder("tune", model) / "best.json")
    settings = params.fit_of(model, **best["params"])
    from src.learning.parallel import open_parallel
    from src.learning.workspace import open_workspace

    with open_parallel() as parallel:
        training = Training(open_workspace(model), settings, params.seed, parallel)
        if parallel.is_main:
            with exclusive(KEPT / f"train-{model}.lock", f"the training of {model}"):
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

    @property
    def how(self) -> dict[str, str]:
        """By how many processes, which each draw a dropout of their own."""
        return {"processes": str(self.parallel.num_processes), "sharded": str(self.parallel.sharded)}

    @property
    def keeper(self) -> "Keeper":
        """Where it stands after each epoch, should it be killed."""
        from src.learning.keeping import Keeper
        from src.search.code import training_key

        key = training_key(self.settings, {**self.workspace.facts(), **self.how}, self.seed)
        return Keeper(UNFINISHED / f"{self.workspace.model.spec.name}.safetensors", key)

    def run(self, reporter: Reporter) -> tuple["Fit", list[str]]:
        """Train an adapter and save it; returns also the names of the modules that carry it."""
        from src.learning.fitting import fit
        from src.learning.lora import adapted

        with adapted(self.workspace.model, self.settings, self.seed) as adapter:
            # Whoever comes first encodes what the cache lacks. The others wait for a lock, which no time limit ends.
            train, val = self.workspace.training(self.settings), self.workspace.data("val")
            result = fit(adapter.model, train, val, self.settings, self.seed, reporter, self.parallel, self.keeper)
            folder = stage_folder("train", self.workspace.model.spec.name)
            adapter.save(folder / "adapter", write=self.parallel.is_main)
            return result, adapter.modules()


def _record(training: Training, best: Mapping[str, Any], notice: str) -> None:
    """Train, and write, log and say what came of it."""
    from src.learning.metrics import scores
    from src.learning.trained import read_trained
    from src.search.training_run import log_training

    model = training.workspace.model.spec.name
    with (
        _open_run(training, best, notice) as run,
        progress(training.settings.epochs, f"{model}: training", "epochs") as bar,
    ):
        run.watch()
        result, modules = _go_on(training, _EpochReporter(run, bar))
        _write(training, best, result, modules)
        log_training(run, read_trained(model))
    training.keeper.forget()
    macro_f1 = scores(result.predictions).macro_f1
    say(f"{model}: best epoch {result.best_epoch} of {len(result.history)}, validation macro-F1 {macro_f1:.4f}")


def _write(training: Training, best: Mapping[str, Any], result: "Fit", modules: list[str]) -> None:
    from src.learning.metrics import scores
    from src.search.code import code_digest

    model = training.workspace.model.spec.name
    folder = stage_folder("train", model)
    write_table(folder / "history.csv", result.history)
    write_predictions(folder / "predictions.csv", result.predictions)
    write_json(
        folder / "train.json",
        {
            "name": model,
            "best_epoch": result.best_epoch,
            **scores(result.predictions).headline(),
            "facts": training.workspace.facts(),
            "code": code_digest(model),
            "study": best["study"],
            "trial": best["best_trial"],
            "params": best["params"],
            "adapted_modules": modules,
        },
    )


def _open_run(training: Training, best: Mapping[str, Any], notice: str) -> "Run":
    """The run of the training that was killed, if this goes on with it, or a new one."""
    from src.services.datasets import parts_read
    from src.services.logbook import open_tracker, run_tags

    tracker, own = open_tracker(training.workspace.model.spec.name), {"stage": "train", "training": training.keeper.key}
    earlier = tracker.find(own)
    if earlier and training.keeper.load():
        return tracker.resume(earlier[0])
    # No other process trains this model now, so whoever ran these was killed.
    for run_id in tracker.find(own, "attributes.status = 'RUNNING'"):
        tracker.close_abandoned(run_id)
    origin = {"study": best["study"], "trial": best["best_trial"]}
    tags = {**run_tags("train", training.workspace.facts(), notice), **origin, **training.how, **own}
    run = tracker.run("train", tags=tags, params=best["params"])
    run.inputs(parts_read("train", "val"))
    run.json("settings.json", asdict(training.settings))
    return run


def _go_on(training: Training, reporter: _EpochReporter) -> tuple["Fit", list[str]]:
    """Train, or go on after the last epoch of a training that was killed."""
    standing = training.keeper.load()
    if standing:
        epochs = standing.values["history"]
        say(f"{training.workspace.model.spec.name}: goes on after epoch {len(epochs)}, where it was interrupted")
        for row in epochs:
            reporter.on_epoch(int(row["epoch"]), row)
    return training.run(reporter)


if __name__ == "__main__":
    main()
