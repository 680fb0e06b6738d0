"""What a run in MLflow holds of a training or an evaluation: the same names and pictures everywhere."""

from collections.abc import Mapping, Sequence

from src.core.labels import TONES
from src.core.records import Scores
from src.services import plots
from src.services.tracking import Run, Tracker, code_version

History = Sequence[Mapping[str, float]]


def open_tracker(model: str) -> Tracker:
    """The experiment of a model."""
    return Tracker(
        f"mvsa-{model}",
        f"The tone of posts by **{model}**: each study with its trials below it, and the zeroshot, train and evaluate "
        "runs of the pipeline. Runs tagged `weights: random` (scale tiny) show that the machine works, nothing else.",
    )


def run_tags(stage: str, facts: Mapping[str, str], notice: str) -> dict[str, str]:
    """What every run says of itself: its stage, the weights and posts behind it, the code, and a note on top."""
    return {"stage": stage, **facts, **code_version(), "mlflow.note.content": notice}


def log_scores(run: Run, scores: Scores, report: str, title: str, prefix: str, at_ms: int | None = None) -> None:
    """Log scores as metrics under `prefix`, and the confusion matrix and classification report as artifacts."""
    run.metrics({f"{prefix}_{name}": value for name, value in scores.flat().items()}, at_ms=at_ms)
    run.figure("confusion_matrix.png", plots.confusion_matrix(scores.confusion, TONES, title))
    run.json("confusion_matrix.json", {"labels": list(TONES), "rows_actual": [list(row) for row in scores.confusion]})
    run.text("classification_report.txt", report)
    run.json("classification_report.json", {tone: dict(row) for tone, row in scores.per_class.items()})


def log_history(run: Run, history: History, title: str) -> None:
    """Log the learning curves of a training, as picture and as numbers; nothing where no epoch was finished."""
    if history:
        run.figure("learning_curves.png", plots.learning_curves(history, title))
        run.json("learning_curves.json", [{name: row[name] for name in row if name != "at_ms"} for row in history])
