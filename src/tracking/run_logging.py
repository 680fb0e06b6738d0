"""The metrics, tags, plots and files that runs of trainings and evaluations log, with the same names in every stage."""

from collections.abc import Mapping, Sequence

from src.core.files import read_table
from src.core.outputs import Trained
from src.core.paths import HISTORY_FILE, PREDICTIONS_FILE, stage_folder
from src.core.provenance import git_tags
from src.core.records import ADAPTER_DIGEST, Scores, read_predictions
from src.evaluation.metrics import report, scores
from src.reporting import plot_evaluation
from src.tracking.client import DESCRIPTION_TAG, Run, Tracker
from src.tracking.markdown import model_link
from src.tracking.ui_views import VIEW_TAG, trials_view, view_address

# Metrics of each epoch by name.
History = Sequence[Mapping[str, float]]

_DESCRIPTION = """\
Labels of posts by {model}: [trials, the best first]({table}) · [as a chart]({charts}) · {versions}

| run | content |
| --- | --- |
| zeroshot | the untrained verbalizer on the test part; the experiment mvsa-baselines has the other baselines |
| align | the connector, trained before the search |
| study | one search; its trials are child runs, and its description names the best trial |
| train | the best trial's settings, trained again; the adapter becomes a model version |
| evaluate | scores on the test part, and the misclassified posts in `misclassified.html` |
| modality | ablations on the test part: text only, image only, shuffled image, no hashtags |
| saliency | saliency maps of the most confident mistakes, in `mistakes.html` |
| repeat | the same settings with other seeds, for the spread of the scores |
| variant | the same settings but for some, with the same seeds as `repeat` |
| folds | the same settings on published folds, with the test parts pooled |

`best_val_*` are validation scores of the best epoch; all choices use them. No choice uses `test_*`.
Runs with the tag `weights: random` (scale tiny) only show that the pipeline works."""

_BASELINES_DESCRIPTION = """\
Scores that a tuned model has to exceed, on the same posts: the largest class (`majority`), TF-IDF of the captions
(`tfidf`), and a linear probe of each model's frozen features. `val_*` chose the settings. No choice uses `test_*`."""

_ENSEMBLE_DESCRIPTION = """\
Labels of posts by the weighted mean of several systems' probabilities: {versions}. Validation chose members, weights
and temperature, so `val_*` are optimistic. No choice uses `test_*`. `ensemble.json` lists the members."""


def open_tracker(model: str) -> Tracker:
    """Open the experiment of a model."""
    description = _DESCRIPTION.format(
        model=model,
        table=view_address("{id}"),
        charts=view_address("{id}", charts=True),
        versions=model_link("registered versions", f"mvsa-{model}"),
    )
    return Tracker(f"mvsa-{model}", description, {VIEW_TAG: trials_view(())})


def run_tags(stage: str, facts: Mapping[str, str], notice: str) -> dict[str, str]:
    """Return the tags that every run has.

    Args:
        stage: the stage that logs the run.
        facts: the weights and posts behind the run, by name.
        notice: the first line of the run's description.
    """
    return {"stage": stage, **facts, **git_tags(), DESCRIPTION_TAG: notice}


def log_scores(run: Run, scores: Scores, report: str, title: str, prefix: str, at_ms: int | None = None) -> None:
    """Log scores as metrics under `prefix`, and the confusion matrix and classification report as artifacts.

    Precision, recall and support of each label are only in the report, because MLflow shows a column for each metric.
    """
    run.metrics({f"{prefix}_{name}": value for name, value in scores.summary().items()}, at_ms=at_ms)
    labels = list(scores.per_class)
    run.figure("confusion_matrix.png", plot_evaluation.confusion_matrix(scores.confusion, labels, title))
    run.json("confusion_matrix.json", {"labels": labels, "rows_actual": [list(row) for row in scores.confusion]})
    run.text("classification_report.txt", report)
    run.json("classification_report.json", {label: dict(row) for label, row in scores.per_class.items()})


def log_history(run: Run, history: History, title: str) -> None:
    """Log the learning curves of a training as a plot and as JSON; nothing if no epoch was finished."""
    if history:
        run.figure("learning_curves.png", plot_evaluation.learning_curves(history, title))
        run.json("learning_curves.json", [{name: row[name] for name in row if name != "at_ms"} for row in history])


def open_baselines() -> Tracker:
    """Return the experiment that lists all baselines."""
    return Tracker("mvsa-baselines", _BASELINES_DESCRIPTION)


def open_ensemble() -> Tracker:
    """Return the experiment of the ensemble."""
    versions = model_link("registered versions", "mvsa-ensemble")
    return Tracker("mvsa-ensemble", _ENSEMBLE_DESCRIPTION.format(versions=versions))


def log_training(run: Run, trained: Trained) -> None:
    """Log a training from its files: learning curves, validation scores, the adapter, and its digest as a tag."""
    folder = stage_folder("train", trained.model)
    predictions = read_predictions(folder / PREDICTIONS_FILE)
    history = [{name: float(value) for name, value in row.items()} for row in read_table(folder / HISTORY_FILE)]
    log_history(run, history, f"{trained.model}, training")
    log_scores(run, scores(predictions), report(predictions), f"{trained.model}, validation", "best_val")
    run.metrics({"best_epoch": trained.best_epoch})
    run.json("adapted_modules.json", list(trained.adapted_modules))
    run.folder(trained.adapter, "adapter")
    run.tags({ADAPTER_DIGEST: trained.digest})
