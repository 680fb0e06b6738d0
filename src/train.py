"""Stage `train`: trains the winner of the search and keeps its adapter.

python -m src.train --model clip
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from src.cli.options import command, model_option
from src.cli.output import progress, say
from src.core.config import load_params
from src.core.files import read_json, write_json, write_table
from src.core.locks import try_lock
from src.core.paths import KEPT, UNFINISHED, stage_folder
from src.core.records import write_predictions
from src.core.training_config import TrainingConfig
from src.models.catalog import MODELS
from src.training.callbacks import NullCallback, TrainingCallback
from src.training.launch import main_first

if TYPE_CHECKING:
    from src.cli.output import Progress
    from src.tracking.client import Run
    from src.training.checkpoint import TrainingCheckpoint
    from src.training.distributed import DistributedContext
    from src.training.trainer import TrainingResult
    from src.training.workspace import Workspace


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
    settings = params.training_config(model, **best["params"])
    from src.training.distributed import open_distributed
    from src.training.workspace import open_workspace

    with open_distributed() as distributed:
        training = Training(open_workspace(model), settings, params.seed, distributed)
        if distributed.is_main:
            with try_lock(KEPT / f"train-{model}.lock", f"the training of {model}"):
                _record(training, best, params.notice)
        else:
            training.run(NullCallback())


@dataclass(frozen=True)
class Training:
    """One training, which all processes run alike."""

    workspace: "Workspace"
    settings: TrainingConfig
    seed: int
    distributed: "DistributedContext"

    @property
    def how(self) -> dict[str, str]:
        """By how many processes, which each draw a dropout of their own."""
        return {"processes": str(self.distributed.num_processes), "sharded": str(self.distributed.sharded)}

    @property
    def checkpoint(self) -> "TrainingCheckpoint":
        """Where it stands after each epoch, should it be killed."""
        from src.core.provenance import training_key
        from src.training.checkpoint import TrainingCheckpoint

        key = training_key(self.settings, {**self.workspace.facts(), **self.how}, self.seed)
        return TrainingCheckpoint(UNFINISHED / f"{self.workspace.model.spec.name}.safetensors", key)

    def run(self, callback: TrainingCallback) -> tuple["TrainingResult", list[str]]:
        """Train an adapter and save it; returns also the names of the modules that carry it."""
        from src.training.train_and_test import trained_adapter
        from src.training.trainer import TrainingContext

        context = TrainingContext(self.seed, callback, self.distributed, self.checkpoint)
        with trained_adapter(self.workspace, self.settings, context) as (adapter, result):
            folder = stage_folder("train", self.workspace.model.spec.name)
            adapter.save(folder / "adapter", write=self.distributed.is_main)
            return result, adapter.modules()


def _record(training: Training, best: Mapping[str, Any], notice: str) -> None:
    """Train, and write, log and say what came of it."""
    from src.core.outputs import read_trained
    from src.evaluation.metrics import scores
    from src.tracking.run_logging import log_training

    model = training.workspace.model.spec.name
    with (
        _open_run(training, best, notice) as run,
        progress(training.settings.epochs, f"{model}: training", "epochs") as bar,
    ):
        run.log_system_metrics()
        result, modules = _train_or_resume(training, _EpochReporter(run, bar))
        _write(training, best, result, modules)
        log_training(run, read_trained(model))
    training.checkpoint.forget()
    macro_f1 = scores(result.predictions).macro_f1
    say(f"{model}: best epoch {result.best_epoch} of {len(result.history)}, validation macro-F1 {macro_f1:.4f}")


def _write(training: Training, best: Mapping[str, Any], result: "TrainingResult", modules: list[str]) -> None:
    from src.core.provenance import code_digest
    from src.evaluation.metrics import scores

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
    from src.tracking.client import parts_read
    from src.tracking.run_logging import open_tracker, run_tags

    tracker, own = (
        open_tracker(training.workspace.model.spec.name),
        {"stage": "train", "training": training.checkpoint.key},
    )
    earlier = tracker.find(own)
    if earlier and training.checkpoint.load():
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


def _train_or_resume(training: Training, callback: _EpochReporter) -> tuple["TrainingResult", list[str]]:
    """Train, or go on after the last epoch of a training that was killed."""
    standing = training.checkpoint.load()
    if standing:
        epochs = standing.values["history"]
        say(f"{training.workspace.model.spec.name}: goes on after epoch {len(epochs)}, where it was interrupted")
        for row in epochs:
            callback.on_epoch(int(row["epoch"]), row)
    return training.run(callback)


if __name__ == "__main__":
    main()
