"""Intervals against scikit-learn, against scipy without groups, and against the truth of simulated posts."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import accuracy_score, f1_score

from src.core.labels import TONES
from src.core.records import Interval, Prediction
from src.evaluation.intervals import SCORES, cluster_bootstrap, group_counts, intervals, scores_of
from src.evaluation.metrics import scores

# How often an actual tone (row) is predicted to be which, and how often each is there.
PROBABILITIES = {"negative": 0.2, "neutral": 0.3, "positive": 0.5}


CONFUSION = np.array([[0.7, 0.1, 0.2], [0.2, 0.45, 0.35], [0.08, 0.05, 0.87]])
SHARES = np.array([0.28, 0.18, 0.54])
CELLS = (SHARES[:, None] * CONFUSION).ravel()


def predictions(cells: NDArray[np.int64]) -> list[Prediction]:
    """Posts by their cell of the confusion matrix."""
    return [
        Prediction(str(key), TONES[cell // 3], TONES[cell % 3], PROBABILITIES)
        for key, cell in enumerate(cells.tolist())
    ]


def alone(rows: list[Prediction]) -> dict[str, str]:
    return {row.id: row.id for row in rows}


@pytest.mark.parametrize("cells", [[0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8], [0, 0, 2, 8, 8], [4, 4, 4], [2, 2]], ids=str)
def test_values_equal_scores(cells: list[int]) -> None:
    rows = predictions(np.array(cells))
    by_name = intervals(rows, alone(rows), seed=1, resamples=50)
    assert list(by_name) == list(SCORES)
    assert {name: each.value for name, each in by_name.items()} == pytest.approx(scores(rows).headline())


def test_accuracy_without_duplicates_equals_scipy() -> None:
    rows = predictions(np.random.default_rng(0).choice(9, size=519, p=CELLS))
    hits = [float(row.actual == row.predicted) for row in rows]
    interval = intervals(rows, alone(rows), seed=3, resamples=1999)["accuracy"]
    wanted = bootstrap((hits,), np.mean, n_resamples=1999, method="BCa", rng=np.random.default_rng(3))
    assert (interval.low, interval.high) == pytest.approx(tuple(wanted.confidence_interval))
    exact = binomtest(round(sum(hits)), len(hits)).proportion_ci(method="wilson")
    assert (interval.low, interval.high) == pytest.approx((exact.low, exact.high), abs=0.006)


def test_resamples_are_scored_as_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    rows = predictions(rng.choice(9, size=60, p=CELLS))
    group_of = {row.id: str(rng.integers(25)) for row in rows}
    groups = list(dict.fromkeys(group_of.values()))
    draws_FR = cluster_bootstrap(group_counts(rows, group_of), scores_of, seed=5, resamples=40).draws_FR
    for draw, drawn in enumerate(np.random.default_rng(5).integers(0, len(groups), (40, len(groups)))):
        posts = [row for index in drawn for row in rows if group_of[row.id] == groups[index]]
        actual, predicted = [row.actual for row in posts], [row.predicted for row in posts]
        f1 = [
            f1_score(actual, predicted, labels=list(TONES), average=average, zero_division=0)
            for average in ("macro", "weighted")
        ]
        assert draws_FR[:, draw] == pytest.approx([accuracy_score(actual, predicted), *f1])


def test_interval_covers_truth_only_with_groups() -> None:
    """Posts of a group are copies of one tweet, up to four: same tone, same prediction."""
    rng, truth = np.random.default_rng(2), scores_of(CELLS)
    covered, num_cases = {"grouped": np.zeros(3), "alone": np.zeros(3)}, 300
    for case in range(num_cases):
        copies = rng.integers(1, 5, size=80)
        rows = predictions(np.repeat(rng.choice(9, size=80, p=CELLS), copies))
        tweet = np.repeat(np.arange(80), copies).tolist()
        grouped = {row.id: str(of) for row, of in zip(rows, tweet, strict=True)}
        for name, group_of in (("grouped", grouped), ("alone", alone(rows))):
            by_name = intervals(rows, group_of, seed=case, resamples=399)
            covered[name] += [covers(each, value) for each, value in zip(by_name.values(), truth, strict=True)]
    assert np.all(abs(covered["grouped"] / num_cases - 0.95) < 0.03), covered
    assert np.all(covered["alone"] / num_cases < 0.85), covered


def covers(interval: Interval, truth: float) -> bool:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low <= truth <= interval.high


@pytest.mark.parametrize("cells", [[0, 4, 8, 8], [8]], ids=["all right", "one post"])
def test_equal_groups_have_no_interval(cells: list[int]) -> None:
    rows = predictions(np.array(cells))
    assert intervals(rows, alone(rows), seed=1)["accuracy"] == Interval(1.0, None, None)


def test_equal_seeds_give_equal_intervals() -> None:
    rows = predictions(np.random.default_rng(0).choice(9, size=50, p=CELLS))
    first, second, third = (intervals(rows, alone(rows), seed, resamples=199) for seed in (1, 1, 2))
    assert first == second != third
