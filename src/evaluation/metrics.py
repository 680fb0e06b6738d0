"""Scores of predictions, all by scikit-learn."""

from collections.abc import Sequence

from sklearn.metrics import (
    accuracy_score,
    classification_report,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)

from src.core.labels import TONES
from src.core.records import Prediction, Scores


def scores(predictions: Sequence[Prediction]) -> Scores:
    """Scores of labelled predictions; a tone that is never predicted has precision and F1 0."""
    actual, predicted = _columns(predictions)
    labels = list(TONES)
    columns = precision_recall_fscore_support(actual, predicted, labels=labels, zero_division=0)
    names = ("precision", "recall", "f1", "support")
    return Scores(
        accuracy=float(accuracy_score(actual, predicted)),
        macro_f1=float(f1_score(actual, predicted, labels=labels, average="macro", zero_division=0)),
        weighted_f1=float(f1_score(actual, predicted, labels=labels, average="weighted", zero_division=0)),
        per_class={
            tone: {name: float(column[k]) for name, column in zip(names, columns, strict=True)}
            for k, tone in enumerate(TONES)
        },
        confusion=confusion_matrix(actual, predicted, labels=labels).tolist(),
    )


def report(predictions: Sequence[Prediction]) -> str:
    """scikit-learn's classification report, as text."""
    actual, predicted = _columns(predictions)
    text: str = classification_report(actual, predicted, labels=list(TONES), digits=4, zero_division=0)
    return text


def _columns(predictions: Sequence[Prediction]) -> tuple[list[str], list[str]]:
    return [row.actual for row in predictions], [row.predicted for row in predictions]
