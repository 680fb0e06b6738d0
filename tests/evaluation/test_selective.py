"""Selective prediction: bounds against exact binomial tails, and wanted accuracies against simulated posts."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binom

from src.evaluation.calibration import accuracy_by_coverage, scaled
from src.evaluation.selective import CONFIDENCE, FIRST_STEP, STEPS, accuracy_bound, selective_curve
from tests.evaluation.test_calibration import simulated, sure


@pytest.mark.parametrize(("right", "posts"), [(9, 10), (180, 200), (0, 5), (5, 5)])
def test_bound_has_binomial_tail(right: int, posts: int) -> None:
    bound = accuracy_bound(right, posts)
    # As many right answers or more have the probability 5% if the accuracy is the bound.
    assert binom.sf(right - 1, posts, bound) == pytest.approx(0.05 if right else 1)
    assert bound == pytest.approx(0) if not right else bound < right / posts


def test_points_lie_on_calibrated_curve() -> None:
    rows = simulated(400, sureness=2)
    curve = selective_curve(rows)
    assert curve.temperature == pytest.approx(2, rel=0.2)
    accuracy_N = accuracy_by_coverage(scaled(rows, curve.temperature))
    steps = range(FIRST_STEP, STEPS + 1)
    assert [point.posts for point in curve.points] == [round(400 * step / STEPS) for step in steps]
    assert [point.accuracy for point in curve.points] == pytest.approx([accuracy_N[p.posts - 1] for p in curve.points])
    assert [point.threshold for point in curve.points] == sorted((p.threshold for p in curve.points), reverse=True)
    assert (curve.points[-1].threshold, curve.points[-1].coverage) == (0, 1)


def test_higher_accuracy_answers_fewer_posts() -> None:
    curve = selective_curve(simulated(2000, sureness=1))
    points = [curve.widest(accuracy) for accuracy in (0.5, 0.7, 0.8)]
    coverages = [point.coverage for point in points if point]
    assert len(coverages) == 3 and coverages[0] == 1 and coverages == sorted(coverages, reverse=True)
    assert curve.widest(0.999) is None
    assert curve.widest(curve.highest_accuracy()) is not None and curve.widest(curve.highest_accuracy() + 0.01) is None


def test_wanted_accuracy_is_missed_as_seldom_as_said() -> None:
    """The accuracy of the answered posts is that of many other posts above the same threshold."""
    rng = np.random.default_rng(10_000)
    # The distribution of `simulated`.
    logits_NK = rng.normal(scale=1.5, size=(20_000, 3))
    right_N = np.argmax(logits_NK + rng.gumbel(size=(20_000, 3)), axis=1) == np.argmax(logits_NK, axis=1)
    accuracies = []
    for seed in range(60):
        curve = selective_curve(simulated(300, sureness=1, seed=seed))
        point = curve.widest(0.7)
        if point:
            confidence_N = softmax(logits_NK / curve.temperature, axis=1).max(axis=1)
            accuracies.append(right_N[confidence_N > point.threshold].mean())
    assert len(accuracies) > 50
    assert 0 < sum(accuracy < 0.7 for accuracy in accuracies) <= (1 - CONFIDENCE) * len(accuracies)


def test_tests_end_at_first_low_bound() -> None:
    """Posts of the middle are all wrong, so the many right ones behind them are not reached."""
    groups = [(0.9, True, 100), (0.7, False, 100), (0.5, True, 800)]
    curve = selective_curve(sure(*[(top - key * 1e-5, right) for top, right, posts in groups for key in range(posts)]))
    assert curve.points[-1].bound > 0.85 > curve.points[0].bound
    assert curve.widest(0.85) is None


def test_thresholds_with_few_posts_end_no_tests() -> None:
    """One of the four surest posts is wrong, and all others are right."""
    curve = selective_curve(sure(*[(0.9 - key / 100, key != 1) for key in range(20)]))
    assert curve.points[0].bound < 0.6
    point = curve.widest(0.6)
    assert point is not None and point.coverage == 1


def test_posts_of_one_confidence_have_one_point() -> None:
    (point,) = selective_curve(sure(*[(0.8, key % 4 > 0) for key in range(40)])).points
    assert (point.threshold, point.posts, point.accuracy) == (0, 40, 0.75)


@pytest.mark.parametrize("num_posts", [1, 2, 19])
def test_few_posts_promise_little(num_posts: int) -> None:
    curve = selective_curve(simulated(num_posts, sureness=1))
    assert curve.points[-1].posts == num_posts
    assert all(point.bound <= point.accuracy for point in curve.points)
    assert curve.widest(0.99) is None
