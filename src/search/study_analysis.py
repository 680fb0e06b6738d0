"""Analysis of a study: importances of settings, and the plots of its trials.

Optuna's own plots (optuna.visualization.matplotlib) are not used. They leave out pruned trials, tell trials apart by
colour alone, and change the style of all other plots of the process.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from src.core.config import Range, Space
from src.reporting import plot_search
from src.reporting.plot_search import SettingAxis, TrialKind, TrialPoint
from src.search.trial import FITS, record_of

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_SCORE = "validation macro-F1"
_SIZE = "trainable parameters"
# With fewer complete trials, another seed of the forest may put another setting first.
FEWEST_COMPLETE = 10


def importances(study: "optuna.Study", space: Space, last: int) -> dict[str, float]:
    """Return the share of each setting in the differences of scores. Shares sum to 1, the highest first.

    Trials after number `last` are left out.

    The shares are the mean decrease in impurity of a random forest on the complete trials (Optuna's evaluator, seeded).
    A tree only compares values, so the scale of a learning rate does not matter to it. Optuna's fANOVA weighs such a
    setting by its plain values, most of which are high. PED-ANOVA needs more trials than our searches have. Settings
    that some complete trial lacks are left out. Powers of two count by their exponents. With two objectives, the first
    is analysed.

    Returns:
        An empty mapping if fewer than `FEWEST_COMPLETE` trials are complete, or all of them have the same score.
    """
    from optuna.importance import MeanDecreaseImpurityImportanceEvaluator, get_param_importances

    from src.search.samplers import on_even_scales

    scores = [
        point.score for point in _points(study, last, space) if point.kind == "complete" and point.score is not None
    ]
    if len(scores) < FEWEST_COMPLETE or math.isclose(min(scores), max(scores), abs_tol=1e-9):
        return {}
    forest = MeanDecreaseImpurityImportanceEvaluator(seed=0)
    scaled = on_even_scales(study.directions, _ended(study, last), space)
    shares = get_param_importances(scaled, evaluator=forest, target=_first_value)
    return {name: float(share) for name, share in shares.items()}


def plots(study: "optuna.Study", space: Space, last: int, shares: Mapping[str, float]) -> dict[str, bytes]:
    """Return the plots of a study as PNG, by name. A plot that the trials do not allow is left out.

    Trials after number `last` are left out. `shares` are the `importances` of the others.

    The names are `optimization_history`, `slices` and `importances`. With two objectives, `pareto_front` (score
    upwards, size downwards) replaces the first. A pruned trial is drawn at its last score. Infeasible and failed trials
    have no score: they are marked at the edge or counted, so that they move no axis.
    """
    points = _points(study, last, space)
    if not any(point.score is not None for point in points):
        return {}
    pngs = {}
    if len(study.directions) > 1:
        title = "Validation macro-F1 and size of each trial"
        pngs["pareto_front"] = plot_search.pareto_front(points, _SCORE, _SIZE, title)
    else:
        title = "Validation macro-F1 of each trial"
        pngs["optimization_history"] = plot_search.optimization_history(points, _SCORE, title)
    axes = {name: _axis(choice) for name, choice in space.items() if any(name in point.settings for point in points)}
    if axes:
        pngs["slices"] = plot_search.slices(points, axes, _SCORE, "Validation macro-F1 over each setting")
    if shares:
        title = "What validation macro-F1 depends on, among the complete trials"
        pngs["importances"] = plot_search.importance_bars(shares, title)
    return pngs


def _ended(study: "optuna.Study", last: int) -> "list[FrozenTrial]":
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state.is_finished() and trial.number <= last]


def _points(study: "optuna.Study", last: int, space: Space) -> list[TrialPoint]:
    """Return the trials that have ended, up to number `last`."""
    ended = _ended(study, last)
    front = _front(study, ended) if len(study.directions) > 1 else set()
    return [_point(trial, space, trial.number in front) for trial in ended]


def _front(study: "optuna.Study", trials: "Sequence[FrozenTrial]") -> set[int]:
    """Return the numbers of the trials that no other one dominates."""
    import optuna

    copy = optuna.create_study(directions=study.directions)
    copy.add_trials(trials)
    # The copy counts its trials anew.
    return {trials[trial.number].number for trial in copy.best_trials}


def _point(trial: "FrozenTrial", space: Space, on_front: bool) -> TrialPoint:
    record = record_of(trial, space)
    kinds: dict[str, TrialKind] = {"complete": "complete", "pruned": "pruned", "failed": "failed"}
    kind: TrialKind = "infeasible" if trial.constraints.get(FITS, 0) > 0 else kinds[record.state]
    return TrialPoint(
        number=record.number,
        kind=kind,
        settings=record.params,
        score=record.value if kind in ("complete", "pruned") else None,
        size=trial.values[1] if kind == "complete" and len(trial.values) > 1 else None,
        on_front=on_front,
    )


def _axis(choice: Range) -> SettingAxis:
    if choice.choices is not None:
        return SettingAxis("choices", choices=tuple(map(str, choice.choices)))
    return SettingAxis(choice.scale, *choice.bounds())


def _first_value(trial: "FrozenTrial") -> float:
    return float(trial.values[0])
