"""What a study tells once it has run: which settings its scores depend on, how it went, and where it has looked.

Optuna's own pictures (optuna.visualization.matplotlib) are not used: they leave pruned trials out, tell trials apart by
colour alone, and change the style of every other picture of the process.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from src.core.config import Range, Space
from src.reporting import plot_search
from src.reporting.plot_search import SettingAxis, TrialKind, TrialPoint
from src.search.space import allowed

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_SCORE = "validation macro-F1"
_SIZE = "trainable parameters"
# With fewer, another seed of the forest may put another setting first.
FEWEST_COMPLETE = 10


def importances(study: "optuna.Study", space: Space) -> dict[str, float]:
    """How much the score depends on each setting, as shares that sum to 1, the highest first.

    By the mean decrease in impurity of a random forest on the complete trials (Optuna's evaluator, seeded). A tree only
    compares values, so the scale of a learning rate does not matter to it; Optuna's fANOVA weighs such a setting by its
    plain values, most of which are high, and PED-ANOVA needs more trials than a search of this kind has. Settings that
    not every complete trial has are left out. Powers of two count by their exponents. With two
    objectives it is about the first.

    Returns:
        Nothing where fewer than `FEWEST_COMPLETE` trials are complete, or all of them have the same score.
    """
    from optuna.importance import MeanDecreaseImpurityImportanceEvaluator, get_param_importances

    from src.search.samplers import on_even_scales

    scores = [point.score for point in _points(study, space) if point.kind == "complete" and point.score is not None]
    if len(scores) < FEWEST_COMPLETE or math.isclose(min(scores), max(scores), abs_tol=1e-9):
        return {}
    forest = MeanDecreaseImpurityImportanceEvaluator(seed=0)
    scaled = on_even_scales(study.directions, study.get_trials(deepcopy=False), space)
    shares = get_param_importances(scaled, evaluator=forest, target=_first_value)
    return {name: float(share) for name, share in shares.items()}


def figures(study: "optuna.Study", space: Space) -> dict[str, bytes]:
    """Pictures of a study as PNG, by name, those that its trials allow.

    `optimization_history` (or `pareto_front`, of a study with two objectives: score, upwards, and size, downwards),
    `slices` and `importances`. A pruned trial is shown at its last score; infeasible and failed ones have none, and
    are marked at the edge or counted, so that they move no axis.
    """
    points, shares = _points(study, space), importances(study, space)
    axes = {name: _axis(choice) for name, choice in space.items() if any(name in point.settings for point in points)}
    if not any(point.score is not None for point in points):
        return {}
    found = {}
    if len(study.directions) > 1:
        found["pareto_front"] = plot_search.pareto_front(
            points, _SCORE, _SIZE, "Validation macro-F1 and size of each trial"
        )
    else:
        found["optimization_history"] = plot_search.optimization_history(
            points, _SCORE, "Validation macro-F1 of each trial"
        )
    if axes:
        found["slices"] = plot_search.slices(points, axes, _SCORE, "Validation macro-F1 over each setting")
    if shares:
        found["importances"] = plot_search.importance_bars(
            shares, "What validation macro-F1 depends on, among the complete trials"
        )
    return found


def _points(study: "optuna.Study", space: Space) -> list[TrialPoint]:
    """The trials that have ended."""
    front = {trial.number for trial in study.best_trials} if len(study.directions) > 1 else set()
    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    return [_point(trial, space, trial.number in front) for trial in ended]


def _point(trial: "FrozenTrial", space: Space, on_front: bool) -> TrialPoint:
    kind = _kind(trial)
    values = _values(trial) if kind in ("complete", "pruned") else []
    return TrialPoint(
        number=trial.number,
        kind=kind,
        settings=allowed(space, trial.params),
        score=values[0] if values else None,
        size=values[1] if len(values) > 1 else None,
        on_front=on_front,
    )


def _kind(trial: "FrozenTrial") -> TrialKind:
    if any(value > 0 for value in trial.constraints.values()):
        return "infeasible"
    kinds: dict[str, TrialKind] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    return kinds[trial.state.name]


def _values(trial: "FrozenTrial") -> Sequence[float]:
    """The objectives of a complete trial; of a pruned one the score that it reported last, if it is a number."""
    if trial.state.name == "COMPLETE":
        return list(trial.values)
    last = math.nan if trial.last_step is None else trial.intermediate_values[trial.last_step]
    return [last] if math.isfinite(last) else []


def _axis(choice: Range) -> SettingAxis:
    if choice.choices is not None:
        return SettingAxis("choices", choices=tuple(map(str, choice.choices)))
    return SettingAxis(choice.scale, *choice.bounds())


def _first_value(trial: "FrozenTrial") -> float:
    return float(trial.values[0])
