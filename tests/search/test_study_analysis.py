"""Importances and plots of made-up studies. How a plot looks is for eyes to judge."""

import math
import os
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from PIL import Image

from src.core.config import Range
from src.reporting import plot_search
from src.reporting.plot_search import SettingAxis
from src.search import study_analysis
from src.search.samplers import distributions_of

SPACE = {
    "rank": Range(low=1, high=16, scale="log2"),
    "lr": Range(low=5e-6, high=1e-2, scale="log"),
    "dropout": Range(low=0.0, high=0.3),
    "target_projections": Range(choices=("q", "qv", "qkvo")),
}
# A number that no trial here reaches.
LAST = 99


def trial(number: int, values: Sequence[float] | None, **more: Any) -> FrozenTrial:
    """Return a trial whose settings are drawn with its number as the seed. With values it is complete."""
    draw = random.Random(number)
    params = {
        "rank": 2 ** draw.randint(0, 4),
        "lr": math.exp(draw.uniform(math.log(5e-6), math.log(1e-2))),
        "dropout": draw.uniform(0, 0.3),
        "target_projections": draw.choice(["q", "qv", "qkvo"]),
    }
    state = more.pop("state", TrialState.COMPLETE)
    return create_trial(params=params, distributions=distributions_of(SPACE), state=state, values=values, **more)


def infeasible(number: int) -> FrozenTrial:
    return trial(number, None, state=TrialState.PRUNED, constraints={"fits": 1.0})


def failed(number: int) -> FrozenTrial:
    return trial(number, None, state=TrialState.FAIL, intermediate_values={1: -1e9})


def pruned(number: int, last: float) -> FrozenTrial:
    return trial(number, [last], state=TrialState.PRUNED, intermediate_values={1: 0.1, 2: last})


def scored(number: int) -> FrozenTrial:
    """Return a complete trial whose score depends on its learning rate, and on little else."""
    params = trial(number, [0.0]).params
    score = 0.8 - 0.05 * (math.log10(params["lr"]) + 2.7) ** 2 + 0.01 * math.log2(params["rank"])
    return trial(number, [score])


def study(*trials: FrozenTrial, directions: Sequence[str] = ("maximize",)) -> optuna.Study:
    a_study = optuna.create_study(directions=[StudyDirection[direction.upper()] for direction in directions])
    a_study.add_trials(trials)
    return a_study


def size(png: bytes) -> tuple[int, int]:
    with Image.open(BytesIO(png)) as picture:
        picture.load()
        assert picture.format == "PNG"
        return picture.size


def importances(a_study: optuna.Study, last: int = LAST) -> dict[str, float]:
    return study_analysis.importances(a_study, SPACE, last)


def plots(a_study: optuna.Study, last: int = LAST) -> dict[str, bytes]:
    return study_analysis.plots(a_study, SPACE, last, importances(a_study, last))


def drawn(monkeypatch: pytest.MonkeyPatch, a_study: optuna.Study) -> dict[str, Any]:
    """Return the axes of each plot by its name, before they become PNG."""
    axes_of: dict[str, Any] = {}
    monkeypatch.setattr(plot_search, "png_of", lambda figure: figure)
    figures: Mapping[str, Any] = plots(a_study)
    for name, figure in figures.items():
        figure.canvas.draw()
        axes_of[name] = figure.axes
    return axes_of


# Which settings matter


def test_decisive_setting_comes_first() -> None:
    shares = importances(study(*map(scored, range(20))))
    assert next(iter(shares)) == "lr" and shares["lr"] > 0.5
    assert set(shares) == {"rank", "lr", "dropout", "target_projections"}
    assert sum(shares.values()) == pytest.approx(1)


def test_importances_are_reproducible() -> None:
    a_study = study(*map(scored, range(20)))
    assert importances(a_study) == importances(a_study)
    code = (
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('this_module', {__file__!r})\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "print(list(module.importances(module.study(*map(module.scored, range(20)))).items()))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "3"}
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(list(importances(a_study).items())), done.stderr


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [scored(number) for number in range(study_analysis.FEWEST_COMPLETE - 1)],
        [*(scored(number) for number in range(5)), *(pruned(number, 0.2) for number in range(5, 30))],
        [trial(number, [0.5]) for number in range(20)],
    ],
    ids=["no trial", "too few", "too few of them complete", "all equal"],
)
def test_no_importances_without_evidence(trials: list[FrozenTrial]) -> None:
    assert importances(study(*trials)) == {}


def test_importances_use_first_objective() -> None:
    trials = [trial(number, [scored(number).values[0], random.Random(number).random()]) for number in range(20)]
    shares = importances(study(*trials, directions=["maximize", "minimize"]))
    assert shares == importances(study(*map(scored, range(20))))


# Pictures


def test_long_search_has_all_plots() -> None:
    a_study = study(*map(scored, range(12)), pruned(12, 0.3), infeasible(13), failed(14))
    pngs = plots(a_study)
    assert list(pngs) == ["optimization_history", "slices", "importances"]
    assert all(min(size(png)) > 200 for png in pngs.values())
    assert plots(a_study) == pngs


def test_short_search_has_fewer_plots() -> None:
    assert plots(study()) == {}
    assert plots(study(infeasible(0), failed(1))) == {}
    assert list(plots(study(scored(0)))) == ["optimization_history", "slices"]
    without_settings = create_trial(params={}, distributions={}, value=0.5)
    assert list(plots(study(without_settings))) == ["optimization_history"]


def test_two_objectives_plot_pareto_front(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [(0.5, 100), (0.7, 400), (0.6, 900), (0.8, 1600)]
    trials = [trial(number, pair) for number, pair in enumerate(values)]
    a_study = study(*trials, infeasible(4), failed(5), directions=["maximize", "minimize"])
    assert list(plots(a_study)) == ["pareto_front", "slices"]
    (axes,) = drawn(monkeypatch, a_study)["pareto_front"]
    front = axes.lines[0]
    assert list(zip(front.get_xdata(), front.get_ydata(), strict=True)) == [(100, 0.5), (400, 0.7), (1600, 0.8)]
    labels = axes.get_legend_handles_labels()[1]
    assert {"front (3)", "dominated (1)", "left out: 1 infeasible, 1 failed"} == set(labels)


def test_later_trials_are_left_out() -> None:
    earlier, later = study(*map(scored, range(12))), study(*map(scored, range(20)))
    assert importances(later, last=11) == importances(earlier)
    assert plots(later, last=11) == plots(earlier)


def test_history_plots_every_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    a_study = study(trial(0, [0.5]), pruned(1, 0.3), trial(2, [0.4]), trial(3, [0.6]), infeasible(4), failed(5))
    (axes,) = drawn(monkeypatch, a_study)["optimization_history"]
    best = axes.lines[0]
    assert list(zip(best.get_xdata(), best.get_ydata(), strict=True)) == [(0, 0.5), (2, 0.5), (3, 0.6), (5, 0.6)]
    places = {dots.get_label(): dots.get_offsets().tolist() for dots in axes.collections}
    assert places["complete (3)"] == [[0, 0.5], [2, 0.4], [3, 0.6]]
    assert places["pruned, last score (1)"] == [[1, 0.3]]
    assert [x for x, _ in places["infeasible, no score (1)"]] == [4]
    assert [x for x, _ in places["failed, no score (1)"]] == [5]


def test_missing_scores_move_no_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    good = [trial(0, [0.5]), trial(1, [0.6])]
    alone = drawn(monkeypatch, study(*good))
    beside = drawn(monkeypatch, study(*good, infeasible(2), failed(3)))
    assert beside["optimization_history"][0].get_ylim() == alone["optimization_history"][0].get_ylim()
    for left, right in zip(alone["slices"], beside["slices"], strict=True):
        assert (left.get_xlim(), left.get_ylim()) == (right.get_xlim(), right.get_ylim())


def test_slices_cover_whole_space(monkeypatch: pytest.MonkeyPatch) -> None:
    panels = {axes.get_xlabel(): axes for axes in drawn(monkeypatch, study(scored(0), scored(1)))["slices"]}
    assert list(panels) == ["rank", "lr", "dropout", "target_projections"]
    assert [tick.get_text() for tick in panels["rank"].get_xticklabels()] == ["1", "2", "4", "8", "16"]
    assert panels["lr"].get_xscale() == "log" and panels["lr"].get_xlim()[0] < 5e-6 < 1e-2 < panels["lr"].get_xlim()[1]
    assert [tick.get_text() for tick in panels["target_projections"].get_xticklabels()] == ["q", "qv", "qkvo"]
    assert {tuple(dots.get_offsets().tolist()[0]) for dots in panels["rank"].collections} == {
        (scored(0).params["rank"], scored(0).values[0])
    }


def test_missing_setting_has_no_point(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = create_trial(params={"lr": 1e-3}, distributions={"lr": distributions_of(SPACE)["lr"]}, value=0.9)
    panels = {axes.get_xlabel(): axes for axes in drawn(monkeypatch, study(scored(0), lacking))["slices"]}
    assert len(panels["lr"].collections[0].get_offsets()) == 2
    assert len(panels["dropout"].collections[0].get_offsets()) == 1
    assert {panels[name].collections[0].get_label() for name in ("lr", "dropout")} == {"complete (2)"}


@pytest.mark.parametrize(
    "axis",
    [
        SettingAxis("linear", 3, 3),
        SettingAxis("log", 1e-3, 1e-3),
        SettingAxis("log2", 4, 4),
        SettingAxis("log2", 1, 4096),
    ],
)
def test_axis_reaches_beyond_space(axis: SettingAxis) -> None:
    low, high = axis.reach()
    assert low < axis.low <= axis.high < high


def test_plots_are_thread_safe() -> None:
    a_study = study(*map(scored, range(12)))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: plots(a_study), range(2))
    assert first == second == plots(a_study)


def test_plots_leave_pyplot_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyplot is of the main thread, and keeps each figure that it has made."""
    import matplotlib.pyplot as plt

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a figure was made through pyplot")

    monkeypatch.setattr(plt, "figure", refuse)
    monkeypatch.setattr(plt, "subplots", refuse)
    assert plots(study(*map(scored, range(12))))
