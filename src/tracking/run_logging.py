"""What MLflow runs of trainings and evaluations log: the same names and plots everywhere."""

from collections.abc import Mapping, Sequence

from src.core.files import read_table
from src.core.labels import TONES
from src.core.outputs import Trained
from src.core.paths import stage_folder
from src.core.provenance import git_tags
from src.core.records import ADAPTER_DIGEST, PARTS, Scores, read_predictions
from src.evaluation.metrics import report, scores
from src.reporting import plot_evaluation
from src.tracking.client import Run, Tracker, parts_read
from src.tracking.markdown import model_link
from src.tracking.ui_views import VIEW_TAG, trials_view, view_address

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
    return {"stage": stage, **facts, **git_tags(), "mlflow.note.content": notice}


def log_scores(run: Run, scores: Scores, report: str, title: str, prefix: str, at_ms: int | None = None) -> None:
    """Log scores as metrics under `prefix`, and the confusion matrix and classification report as artifacts.

    Precision, recall and support of each tone stand in the report alone: as columns they would hide the others.
    """
    run.metrics({f"{prefix}_{name}": value for name, value in scores.summary().items()}, at_ms=at_ms)
    run.figure("confusion_matrix.png", plot_evaluation.confusion_matrix(scores.confusion, TONES, title))
    run.json("confusion_matrix.json", {"labels": list(TONES), "rows_actual": [list(row) for row in scores.confusion]})
    run.text("classification_report.txt", report)
    run.json("classification_report.json", {tone: dict(row) for tone, row in scores.per_class.items()})


def log_history(run: Run, history: History, title: str) -> None:
    """Log the learning curves of a training, as picture and as numbers; nothing where no epoch was finished."""
    if history:
        run.figure("learning_curves.png", plot_evaluation.learning_curves(history, title))
        run.json("learning_curves.json", [{name: row[name] for name in row if name != "at_ms"} for row in history])


_ABOUT_BASELINES = """\
What a tuned model has to beat, on the same posts: always the largest class (`majority`), TF-IDF of the captions
(`tfidf`), and a linear probe of each model's frozen features. `val_*` chose the settings; `test_*` choose nothing."""


def log_baseline(
    name: str, tags: Mapping[str, str], settings: Mapping[str, object], val: Scores, test: Scores, report: str
) -> None:
    """Log one, with its scores on validation and test; `report` is the classification report of test."""
    with Tracker("mvsa-baselines", _ABOUT_BASELINES).run(name, tags=tags, params=settings) as run:
        run.inputs(parts_read(*PARTS))
        run.metrics({f"val_{each}": value for each, value in val.summary().items()})
        log_scores(run, test, report, f"{name}, test", "test")


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
