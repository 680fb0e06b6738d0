"""Work of stage `train`: train the winner of the search, on one process or several, and log its run."""

from dataclasses import dataclass

from src.cli.output import progress
from src.core.config import Params
from src.core.files import write_table
from src.core.locks import try_lock
from src.core.outputs import BestTrial, Trained, read_trained
from src.core.paths import (
    ADAPTER_FOLDER,
    BEST_FILE,
    HISTORY_FILE,
    KEPT,
    PREDICTIONS_FILE,
    TRAIN_JSON,
    UNFINISHED,
    stage_folder,
)
from src.core.provenance import code_digest, training_key
from src.core.records import write_predictions
from src.core.training_config import TrainingConfig
from src.pipeline.training_run import open_training_run, show_finished_epochs
from src.tracking.client import Run
from src.tracking.epoch_logger import EpochLogger, log_missing_epochs
from src.tracking.run_logging import log_training, open_tracker, run_tags
from src.training.callbacks import NullCallback, TrainingCallback
from src.training.checkpoint import TrainingCheckpoint
from src.training.distributed import DistributedContext, open_distributed
from src.training.train_and_test import trained_adapter
from src.training.trainer import TrainingContext, TrainingResult
from src.training.workspace import Workspace, open_workspace


@dataclass(frozen=True)
class TrainOutput:
    """The files of a training, as the main process wrote them."""

    trained: Trained
    num_epochs: int


def train_winner(params: Params, model: str) -> TrainOutput | None:
    """Train with the settings of the best trial, and write and log the adapter and its validation scores.

    Under `accelerate launch`, all processes call this function; the main process alone writes, logs and returns a
    result. Others return None.

    Raises:
        UserError: an earlier stage has not run, another process trains this model, or the loss diverges.
    """
    best = BestTrial.read(stage_folder("tune", model) / BEST_FILE)
    config = params.training_config(model, **best.params)
    with open_distributed() as distributed:
        workspace = open_workspace(params, model, distributed)
        training = WinnerTraining(workspace, best, config, params.seed)
        if not distributed.is_main:
            training.run(NullCallback())
            return None
        with try_lock(KEPT / f"train-{model}.lock", f"the training of {model}"):
            return _train_and_log(training, params.notice)


@dataclass(frozen=True)
class WinnerTraining:
    """The training of the winner; all processes of a distributed training hold an equal one."""

    workspace: Workspace
    best: BestTrial
    config: TrainingConfig
    seed: int

    @property
    def model(self) -> str:
        """Return the model's name in the catalog."""
        return self.workspace.model.spec.name

    @property
    def distributed(self) -> DistributedContext:
        """Return the processes of the training, as this one sees them."""
        return self.workspace.distributed

    @property
    def process_tags(self) -> dict[str, str]:
        """Return the tags for the number of processes: dropout differs with it, so a result depends on it."""
        return {"processes": str(self.distributed.num_processes), "sharded": str(self.distributed.sharded)}

    @property
    def checkpoint(self) -> TrainingCheckpoint:
        """Return the training checkpoint, whose key covers everything that the result depends on."""
        key = training_key(self.config, {**self.workspace.facts(), **self.process_tags}, self.seed)
        return TrainingCheckpoint(UNFINISHED / f"{self.model}.safetensors", key)

    def run(self, callback: TrainingCallback) -> tuple[TrainingResult, tuple[str, ...]]:
        """Train an adapter and save it; return the result and the names of the modules that carry the adapter.

        The first process encodes the posts that the cache lacks. The others wait for its lock, which has no timeout.
        """
        context = TrainingContext(self.seed, callback, self.distributed, self.checkpoint)
        with trained_adapter(self.workspace, self.config, context) as (adapter, result):
            # Gathering sharded weights needs all processes; one writes.
            adapter.save(stage_folder("train", self.model) / ADAPTER_FOLDER, write=self.distributed.is_main)
            return result, tuple(adapter.modules())


def _train_and_log(training: WinnerTraining, notice: str) -> TrainOutput:
    with (
        _open_run(training, notice) as run,
        progress(training.config.epochs, f"{training.model}: training", "epochs") as bar,
    ):
        run.log_system_metrics()
        logger = EpochLogger(run, bar)
        show_finished_epochs(training.model, training.checkpoint, logger)
        result, modules = training.run(logger)
        _write(training, result, modules)
        log_missing_epochs(run, result.history)
        trained = read_trained(training.model)
        log_training(run, trained)
    # Deleted last: until the run is complete, the same command must find the state.
    training.checkpoint.delete()
    return TrainOutput(trained, len(result.history))


def _open_run(training: WinnerTraining, notice: str) -> Run:
    tags = {
        **run_tags("train", training.workspace.facts(), notice),
        "study": training.best.study,
        "trial": str(training.best.best_trial),
        **training.process_tags,
    }
    tracker = open_tracker(training.model)
    return open_training_run(tracker, "train", training.checkpoint, training.config, tags, training.best.params)


def _write(training: WinnerTraining, result: TrainingResult, modules: tuple[str, ...]) -> None:
    folder = stage_folder("train", training.model)
    write_table(folder / HISTORY_FILE, result.history)
    write_predictions(folder / PREDICTIONS_FILE, result.predictions)
    val = result.scores()
    Trained(
        model=training.model,
        best_epoch=result.best_epoch,
        accuracy=val.accuracy,
        macro_f1=val.macro_f1,
        weighted_f1=val.weighted_f1,
        facts=training.workspace.facts(),
        code=code_digest(training.model),
        study=training.best.study,
        trial=training.best.best_trial,
        params=training.best.params,
        adapted_modules=modules,
    ).write(folder / TRAIN_JSON)
