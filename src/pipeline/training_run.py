"""The MLflow run of a stage's training, which a kill may interrupt and the same command continues."""

from collections.abc import Mapping
from dataclasses import asdict

from src.cli.output import say
from src.core.training_config import TrainingConfig
from src.tracking.client import Run, Tracker, parts_read
from src.tracking.epoch_logger import EpochLogger
from src.training.checkpoint import TrainingCheckpoint


def open_training_run(
    tracker: Tracker,
    stage: str,
    checkpoint: TrainingCheckpoint,
    settings: TrainingConfig,
    tags: Mapping[str, str],
    params: Mapping[str, object],
) -> Run:
    """Return the run of the killed training that this one continues, or a new one.

    Args:
        tracker: the model's experiment.
        stage: the stage that trains; it gives the run its name.
        checkpoint: the training checkpoint, whose key tells trainings apart.
        settings: the settings of the training, logged in `settings.json`.
        tags: the tags of a new run.
        params: the parameters of a new run.
    """
    identity = {"stage": stage, "training": checkpoint.key}
    earlier = tracker.find(identity)
    if earlier and checkpoint.load():
        return tracker.resume(earlier[0])
    # The stage's lock excludes other processes, so the process of any run that still counts as running was killed.
    for run_id in tracker.find(identity, "attributes.status = 'RUNNING'"):
        tracker.close_abandoned(run_id)
    run = tracker.run(stage, tags={**tags, **identity}, params=params)
    run.inputs(parts_read("train", "val"))
    run.json("settings.json", asdict(settings))
    return run


def show_finished_epochs(model: str, checkpoint: TrainingCheckpoint, logger: EpochLogger) -> None:
    """Say where a killed training goes on, and show its finished epochs: the trainer reports new ones only."""
    state = checkpoint.load()
    if state:
        history = state.values["history"]
        say(f"{model}: goes on after epoch {len(history)}, where it was interrupted")
        for metrics in history:
            logger.show(metrics)
        logger.log_missing(history)
