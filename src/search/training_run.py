"""The run in MLflow of a training, logged from the files that the training wrote."""

from src.core.paths import stage_folder
from src.core.records import ADAPTER_DIGEST, read_predictions, read_table
from src.learning.metrics import report, scores
from src.learning.trained import Trained
from src.services.logbook import log_history, log_scores
from src.services.tracking import Run


def log_training(run: Run, trained: Trained) -> None:
    """Log what a training's files say: learning curves, validation scores, the adapter, and its digest as a tag."""
    folder, title = stage_folder("train", trained.model), f"{trained.model}, training"
    predictions = read_predictions(folder / "predictions.csv")
    history = [{name: float(value) for name, value in row.items()} for row in read_table(folder / "history.csv")]
    log_history(run, history, title)
    log_scores(run, scores(predictions), report(predictions), f"{trained.model}, validation", "best_val")
    run.metrics({"best_epoch": trained.best_epoch})
    run.json("adapted_modules.json", list(trained.adapted_modules))
    run.folder(trained.adapter, "adapter")
    run.tags({ADAPTER_DIGEST: trained.digest})
