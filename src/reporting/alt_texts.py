"""Text alternatives of plots: what each plot shows, in sentences made of its data.

Readers who cannot see a plot get these sentences instead (W3C, WCAG 2.2, success criterion 1.1.1).
"""

from collections.abc import Iterable, Mapping, Sequence

from src.core.format import percent, percent_interval
from src.core.outputs import BestTrial, ExplainedMistake, SearchSummary
from src.core.records import Interval
from src.core.saliency import signed
from src.core.training_config import display_value
from src.evaluation.comparison_tables import CalibrationRow

_WORDS_NAMED = 3
_CURVES = {"train_loss": "training loss", "val_loss": "validation loss"}


def forest_alt(title: str, rows: Mapping[str, Interval]) -> str:
    """Describe a plot of scores with intervals, one row a system."""
    return f"{title}, with 95% intervals: {_joined(f'{name} {percent_interval(row)}' for name, row in rows.items())}."


def confusion_alt(title: str, counts_KK: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Describe a confusion matrix, rows actual and columns predicted."""
    rows = []
    for label, row in zip(labels, counts_KK, strict=True):
        predicted = ", ".join(f"{count:,} {name}" for count, name in zip(row, labels, strict=True))
        rows.append(f"of {sum(row):,} {label} posts it predicts {predicted}")
    return f"{title}: {_joined(rows)}."


def learning_curves_alt(title: str, history: Sequence[Mapping[str, float]]) -> str:
    """Describe losses and validation scores over epochs; keys other than `epoch` may be missing."""
    first, last = history[0], history[-1]
    parts = [
        f"the {words} goes from {first[name]:.2f} to {last[name]:.2f}"
        for name, words in _CURVES.items()
        if name in first and name in last
    ]
    scored = [row for row in history if "val_macro_f1" in row]
    if scored:
        best = max(scored, key=lambda row: row["val_macro_f1"])
        parts.append(f"validation macro-F1 is highest in epoch {best['epoch']:.0f}, at {best['val_macro_f1']:.2f}")
    return f"{title}, {len(history)} epochs: {_joined(parts)}."


def bars_alt(title: str, scores: Mapping[str, Mapping[str, float]]) -> str:
    """Describe bars of a score of each label (inner key) for each model (outer key)."""
    models = (
        f"{model} " + ", ".join(f"{label} {value:.2f}" for label, value in row.items()) for model, row in scores.items()
    )
    return f"{title}: {_joined(models)}."


def reliability_alt(row: CalibrationRow) -> str:
    """Describe a reliability diagram before and after temperature scaling."""
    described = f"Accuracy by confidence of {row.system}. The expected calibration error is {percent(row.ece)}."
    temperature = f"{row.temperature:.2f}"
    if temperature == "1.00":
        return f"{described} On validation no other temperature than {temperature} fits better."
    direction = "low" if row.temperature < 1 else "high"
    return (
        f"{described} On validation, confidences are too {direction}: at temperature {temperature} the error is "
        f"{percent(row.ece_scaled)}."
    )


def selective_alt(title: str, curves: Mapping[str, Sequence[float]]) -> str:
    """Describe accuracies on the 1, 2, ... N most confident predictions of each system."""
    halves = (
        f"{name} {percent(curve[(len(curve) - 1) // 2])} on the most confident half, {percent(curve[-1])} on all"
        for name, curve in curves.items()
    )
    return f"{title}: {_joined(halves)}."


def saliency_alt(model: str, mistake: ExplainedMistake) -> str:
    """Describe the saliency map of a mistake: the halves' contributions and the strongest words."""
    words = sorted(mistake.words, key=lambda word: -abs(word.contribution))[:_WORDS_NAMED]
    strongest = ", ".join(f"{word.text} {signed(word.contribution)}" for word in words) or "none"
    return (
        f"Saliency map of {model} for post {mistake.id}. Contributions to {mistake.predicted} in log-odds: the image "
        f"{signed(mistake.image)}, the caption {signed(mistake.caption)}. Strongest words: {strongest}."
    )


def search_alts(model: str, search: SearchSummary, best: BestTrial) -> dict[str, str]:
    """Describe the plots of a search, by their names in the folder of `tune`."""
    trials = f"{search.finished} finished trials of {model}, {search.pruned} of them pruned"
    winner = f"trial {best.best_trial} with {best.best_val_macro_f1:.4f}"
    settings = ", ".join(f"{name} {display_value(value)}" for name, value in best.params.items())
    shares = ", ".join(f"{name} {share:.0%}" for name, share in search.importances.items())
    return {
        "optimization_history": f"Validation macro-F1 of {trials}; the best is {winner}.",
        "pareto_front": f"Validation macro-F1 over trainable parameters of {trials}; the best score has {winner}.",
        "slices": f"Validation macro-F1 over each setting, of {trials}; the best is {winner}, at {settings}.",
        "importances": f"Importance of each setting for {model}: {shares}.",
    }


def _joined(parts: Iterable[str]) -> str:
    return "; ".join(parts)
