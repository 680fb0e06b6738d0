"""Scores of predictions, as scikit-learn's `classification_report` defines them.

Each stage scores some hundred predictions. Counting them here saves each stage the import of scikit-learn, which takes
over a second. tests/evaluation/test_metrics.py compares the scores with scikit-learn's.
"""

from collections import Counter
from collections.abc import Sequence

from src.core.records import Prediction, Scores, labels_of

_RATES = ("precision", "recall", "f1")


def scores(predictions: Sequence[Prediction]) -> Scores:
    """Score labelled predictions. A label that is never predicted has precision and F1 0."""
    labels = labels_of(predictions)
    counts = Counter((row.actual, row.predicted) for row in predictions)
    confusion = [[counts[actual, predicted] for predicted in labels] for actual in labels]
    per_class = {label: _class_scores(confusion, index) for index, label in enumerate(labels)}
    return Scores(
        accuracy=_share(sum(confusion[index][index] for index in range(len(labels))), len(predictions)),
        macro_f1=_share(sum(row["f1"] for row in per_class.values()), len(labels)),
        weighted_f1=_share(sum(row["f1"] * row["support"] for row in per_class.values()), len(predictions)),
        per_class=per_class,
        confusion=confusion,
    )


def report(predictions: Sequence[Prediction]) -> str:
    """Return the scores of each label, their means and the accuracy as a text table."""
    scored = scores(predictions)
    total = len(predictions)
    rows = [(label, [row[name] for name in _RATES], int(row["support"])) for label, row in scored.per_class.items()]
    columns = [[values[index] for _, values, _ in rows] for index in range(len(_RATES))]
    macro = [sum(column) / len(rows) for column in columns]
    weighted = [
        _share(sum(value * support for value, (_, _, support) in zip(column, rows, strict=True)), total)
        for column in columns
    ]
    return "\n".join(
        [
            _line("", ["precision", "recall", "f1-score"], "support"),
            "",
            *(_line(label, _digits(values), support) for label, values, support in rows),
            "",
            _line("accuracy", ["", "", *_digits([scored.accuracy])], total),
            _line("macro avg", _digits(macro), total),
            _line("weighted avg", _digits(weighted), total),
            "",
        ]
    )


def _class_scores(confusion: Sequence[Sequence[int]], index: int) -> dict[str, float]:
    """Return precision, recall, F1 and support of the label at `index`."""
    right = confusion[index][index]
    support = sum(confusion[index])
    predicted = sum(row[index] for row in confusion)
    return {
        "precision": _share(right, predicted),
        "recall": _share(right, support),
        "f1": _share(2 * right, support + predicted),
        "support": float(support),
    }


def _share(part: float, whole: float) -> float:
    """Return part / whole, and 0 for a share of nothing."""
    return part / whole if whole else 0.0


def _digits(values: Sequence[float]) -> list[str]:
    return [f"{value:.4f}" for value in values]


def _line(name: str, values: Sequence[str], support: int | str) -> str:
    return f"{name:>12} {''.join(f'{value:>10}' for value in values)}{support:>10}"
