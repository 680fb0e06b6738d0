"""What a run in MLflow holds of a training or an evaluation: the same names and pictures everywhere."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from src.core.labels import TONES
from src.core.records import Scores
from src.services import plots
from src.services.notes import model_link
from src.services.repository import git
from src.services.tracking import Run, Tracker
from src.services.views import VIEW_TAG, trials_view, view_address

_log = logging.getLogger(__name__)

History = Sequence[Mapping[str, float]]


_ABOUT = """\
The tone of posts by **{model}**: [trials, the best first]({table}) · [as a chart]({charts}) · {versions}

What was tried and what came of it:

| run | what it is |
| --- | --- |
| zeroshot | the model's own words on the test part, untrained; baselines: the experiment mvsa-baselines |
| study | one search, with a run for each trial below it; its description says which was best |
| train | the best trial's settings, trained again; its adapter becomes a model version |
| evaluate | the test part, with the posts it gets wrong in `misclassified.html` |
| modality | the test part again, with the text or the picture hidden, another's picture, or no hashtags |
| saliency | what the mistakes it was surest of rest on, as heat maps in `mistakes.html` |
| repeat | the same settings on other seeds: how much of a score is luck |
| folds | the same settings on published folds, whose test parts are taken together |

`best_val_*` are scores of the best epoch on the validation part, and all is chosen by them; `test_*` choose nothing.
Runs tagged `weights: random` (scale tiny) show that the machine works, and nothing else."""


def open_tracker(model: str) -> Tracker:
    """The experiment of a model."""
    about = _ABOUT.format(
        model=model,
        table=view_address("{id}"),
        charts=view_address("{id}", charts=True),
        versions=model_link("registered versions", f"mvsa-{model}"),
    )
    return Tracker(f"mvsa-{model}", about, {VIEW_TAG: trials_view(())})


def run_tags(stage: str, facts: Mapping[str, str], notice: str) -> dict[str, str]:
    """What every run says of itself: its stage, the weights and posts behind it, the code, and a note on top."""
    return {"stage": stage, **facts, **code_version(), "mlflow.note.content": notice}


def log_scores(run: Run, scores: Scores, report: str, title: str, prefix: str, at_ms: int | None = None) -> None:
    """Log scores as metrics under `prefix`, and the confusion matrix and classification report as artifacts.

    Precision, recall and support of each tone stand in the report alone: as columns they would hide the others.
    """
    run.metrics({f"{prefix}_{name}": value for name, value in scores.summary().items()}, at_ms=at_ms)
    run.figure("confusion_matrix.png", plots.confusion_matrix(scores.confusion, TONES, title))
    run.json("confusion_matrix.json", {"labels": list(TONES), "rows_actual": [list(row) for row in scores.confusion]})
    run.text("classification_report.txt", report)
    run.json("classification_report.json", {tone: dict(row) for tone, row in scores.per_class.items()})


def log_history(run: Run, history: History, title: str) -> None:
    """Log the learning curves of a training, as picture and as numbers; nothing where no epoch was finished."""
    if history:
        run.figure("learning_curves.png", plots.learning_curves(history, title))
        run.json("learning_curves.json", [{name: row[name] for name in row if name != "at_ms"} for row in history])


def code_version() -> dict[str, str]:
    """Tags that tell which code ran: the commit, and whether src/ differs from it. Empty outside of a repository."""
    head, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", "src")
    if head.returncode or changes.returncode:
        if Path(".git").exists():
            said = (head.stderr or changes.stderr).strip().partition("\n")[0]
            _log.warning("runs will not say which commit they are of: %s", said)
        return {}
    return {"git_commit": head.stdout.strip(), "git_dirty": str(bool(changes.stdout.strip())).lower()}
