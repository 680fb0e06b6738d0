"""Scores of predictions, by scikit-learn."""

from collections.abc import Sequence
from typing import Any

from sklearn.metrics import classification_report, confusion_matrix

from src.core.labels import TONES
from src.core.records import Prediction, Scores


def scores(predictions: Sequence[Prediction]) -> Scores:
    """Score labelled predictions. A tone that is never predicted has precision and F1 0."""
    actual = [row.actual for row in predictions]
    predicted = [row.predicted for row in predictions]
    report_of: dict[str, Any] = classification_report(
        actual, predicted, labels=list(TONES), zero_division=0, output_dict=True
    )
    names = {"precision": "precision", "recall": "recall", "f1": "f1-score", "support": "support"}
    return Scores(
        accuracy=float(report_of["accuracy"]),
        macro_f1=float(report_of["macro avg"]["f1-score"]),
        weighted_f1=float(report_of["weighted avg"]["f1-score"]),
        per_class={tone: {name: float(report_of[tone][column]) for name, column in names.items()} for tone in TONES},
        confusion=confusion_matrix(actual, predicted, labels=list(TONES)).tolist(),
    )


def report(predictions: Sequence[Prediction]) -> str:
    """Return scikit-learn's classification report as text."""
    actual = [row.actual for row in predictions]
    predicted = [row.predicted for row in predictions]
    text: str = classification_report(actual, predicted, labels=list(TONES), digits=4, zero_division=0)
    return text
