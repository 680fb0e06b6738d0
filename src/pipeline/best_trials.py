"""A part of stage `evaluate`: predictions of the trials that come after the best one, by the adapters they kept."""

import shutil
import tempfile
from pathlib import Path

from src.cli.output import warn
from src.core.config import Params
from src.core.errors import UserError
from src.core.files import atomic_folder, read_table
from src.core.outputs import Trained
from src.core.paths import (
    ADAPTER_FOLDER,
    PREDICTIONS_FILE,
    TRIALS_FILE,
    VAL_PREDICTIONS_FILE,
    stage_folder,
)
from src.core.records import write_predictions
from src.tracking.client import Tracker
from src.tracking.run_logging import open_tracker
from src.training.adapter import saved_adapter
from src.training.inference import predict
from src.training.workspace import Workspace

# The folder of the stage, with one folder for each trial.
STAGE = "best_trials"


def predict_best_trials(params: Params, workspace: Workspace, trained: Trained) -> None:
    """Predict val and test with the adapters of the next best trials, and write outputs/best_trials/<model>/.

    Stage `train` has trained the best trial's settings. The adapters come from the trials' runs in MLflow. A trial
    whose adapter is gone, as after `dvc pull` in another clone, is left out with a warning.
    """
    tracker = open_tracker(trained.model)
    with atomic_folder(stage_folder(STAGE, trained.model)) as folder, tempfile.TemporaryDirectory() as temporary:
        for number in next_best(trained)[: params.ensemble.trials]:
            adapter = _adapter_of(tracker, trained, number, Path(temporary))
            if adapter is None:
                warn(f"{trained.model}: trial {number} is no candidate for the ensemble: MLflow has no adapter of it")
                continue
            try:
                _predict(params, workspace, adapter, folder / str(number))
            except UserError as error:
                shutil.rmtree(folder / str(number), ignore_errors=True)
                warn(f"{trained.model}: trial {number} is no candidate for the ensemble: {error}")


def next_best(trained: Trained) -> list[int]:
    """Return the numbers of the complete trials but the trained one, the best on validation first."""
    rows = [row for row in read_table(stage_folder("tune", trained.model) / TRIALS_FILE) if row["state"] == "complete"]
    ranked = sorted(rows, key=lambda row: (-float(row["val_macro_f1"]), int(row["number"])))
    return [int(row["number"]) for row in ranked if int(row["number"]) != trained.trial]


def _adapter_of(tracker: Tracker, trained: Trained, number: int, folder: Path) -> Path | None:
    runs = tracker.find({"stage": "trial", "study": trained.study, "trial": number}, "attributes.status = 'FINISHED'")
    if not runs:
        return None
    own = folder / str(number)
    own.mkdir()
    return tracker.download(runs[0], ADAPTER_FOLDER, own)


def _predict(params: Params, workspace: Workspace, adapter: Path, folder: Path) -> None:
    with saved_adapter(workspace.model, adapter) as attached:
        for part, name in (("test", PREDICTIONS_FILE), ("val", VAL_PREDICTIONS_FILE)):
            data = workspace.data(part)
            write_predictions(folder / name, predict(attached.model, data, params.evaluate.batch_size))
    shutil.copytree(adapter, folder / ADAPTER_FOLDER)
