"""Calibration against scikit-learn and a known temperature; selective prediction against closed forms."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss as sklearn_log_loss

from src.core.labels import TONES
from src.core.records import Prediction
from src.evaluation.calibration import (
    BINS,
    accuracy_by_coverage,
    best_temperature,
    calibrate,
    confidences,
    expected_calibration_error,
    hits,
    log_loss,
    reliability,
    risk_coverage_area,
    scaled,
)

Probabilities = NDArray[np.float64]


def predictions(probabilities_NK: Probabilities, actual_N: NDArray[np.int64]) -> list[Prediction]:
    return [
        Prediction(str(key), TONES[actual], TONES[int(np.argmax(row))], dict(zip(TONES, row, strict=True)))
        for key, (row, actual) in enumerate(zip(probabilities_NK.tolist(), actual_N.tolist(), strict=True))
    ]


def simulated(num_posts: int, sureness: float, seed: int = 0) -> list[Prediction]:
    """Tones drawn with the probabilities of a softmax; told are those of logits that are `sureness` times as large."""
    rng = np.random.default_rng(seed)
    logits_NK = rng.normal(scale=1.5, size=(num_posts, 3))
    actual_N = np.argmax(logits_NK + rng.gumbel(size=(num_posts, 3)), axis=1)
    return predictions(softmax(sureness * logits_NK, axis=1), actual_N)


def sure(*posts: tuple[float, bool]) -> list[Prediction]:
    """Positive posts by the confidence of their prediction, and whether it is right."""
    return [
        Prediction(
            str(key),
            "positive",
            said := "positive" if right else "negative",
            {tone: top if tone == said else rest for tone in TONES},
        )
        for key, (top, right) in enumerate(posts)
        for rest in [(1 - top) / 2]
    ]


# Reliability


def test_bins_equal_those_of_scikit_learn() -> None:
    rows = simulated(3000, sureness=2)
    accuracy, confidence = calibration_curve(hits(rows), confidences(rows), n_bins=BINS)
    filled = [each for each in reliability(rows) if each.posts]
    assert [each.accuracy for each in filled] == pytest.approx(accuracy)
    assert [each.confidence for each in filled] == pytest.approx(confidence)
    assert all(each.low < confidence <= each.high for each, confidence in zip(filled, confidence, strict=True))
    assert sum(each.posts for each in filled) == 3000


def test_calibration_error_weights_bins_by_posts() -> None:
    rows = sure((0.9, True), (0.9, False), (0.9, True), (0.5, False))
    assert expected_calibration_error(reliability(rows)) == pytest.approx(3 / 4 * abs(2 / 3 - 0.9) + 1 / 4 * 0.5)
    empty = [each for each in reliability(rows) if not each.posts]
    assert len(empty) == BINS - 2
    assert all((each.accuracy, each.confidence) == (None, None) for each in empty)


def test_calibrated_system_has_no_error() -> None:
    rows = sure((0.75, True), (0.75, True), (0.75, True), (0.75, False))
    assert expected_calibration_error(reliability(rows)) == pytest.approx(0)


# Temperature


@pytest.mark.parametrize("sureness", [0.4, 1.0, 2.5])
def test_scaling_recovers_the_temperature(sureness: float) -> None:
    calibration = calibrate(val=simulated(20_000, sureness, seed=1), test=simulated(20_000, sureness, seed=2))
    assert calibration.temperature == pytest.approx(sureness, rel=0.05)
    assert calibration.ece_scaled < 0.015
    assert calibration.nll_scaled <= calibration.nll + 1e-4
    if sureness != 1:
        assert calibration.ece > 0.05
        assert calibration.nll_scaled < calibration.nll


def test_no_other_temperature_is_better() -> None:
    rows = simulated(500, sureness=3)
    best = best_temperature(rows)
    grid = np.geomspace(0.5, 8, 60)
    assert log_loss(scaled(rows, best)) <= min(log_loss(scaled(rows, temperature)) for temperature in grid)


def test_scaling_keeps_predictions() -> None:
    rows = simulated(50, sureness=2)
    softened = scaled(rows, 4)
    assert [row.predicted for row in softened] == [row.predicted for row in rows]
    assert all(sum(row.probabilities.values()) == pytest.approx(1) for row in softened)
    assert np.all(confidences(softened) < confidences(rows))
    assert confidences(scaled(softened, 1 / 4)) == pytest.approx(confidences(rows))


def test_the_log_loss_is_scikit_learns() -> None:
    rows = simulated(200, sureness=2)
    told = [list(row.probabilities.values()) for row in rows]
    assert log_loss(rows) == pytest.approx(sklearn_log_loss([row.actual for row in rows], told, labels=list(TONES)))


def test_temperature_of_extreme_systems() -> None:
    assert best_temperature(predictions(np.full((4, 3), 1 / 3), np.array([0, 1, 2, 0]))) == 1
    assert best_temperature(sure((0.6, True), (0.7, True))) == pytest.approx(0.01, abs=0.05)


def test_probability_of_zero_is_finite() -> None:
    rows = predictions(np.array([[1.0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]]), np.array([0, 1, 2]))
    calibration = calibrate(rows, rows)
    assert np.isfinite(calibration.nll)
    assert calibration.temperature > 1
    assert calibration.nll_scaled < calibration.nll


def test_rounded_probability_loses_no_more_than_files_tell() -> None:
    small, rounded = ([[1 - least, least, 0.0]] for least in (0.6e-6, 0.0))
    loss = log_loss(predictions(np.array(rounded), np.array([1])))
    assert loss == pytest.approx(-np.log(0.5e-6), abs=1e-5)
    assert loss - log_loss(predictions(np.array(small), np.array([1]))) == pytest.approx(np.log(1.2), abs=1e-5)


# Selective prediction


def test_the_surest_posts_are_kept_first() -> None:
    rows = sure((0.5, False), (0.9, True), (0.7, False), (0.8, True))
    assert accuracy_by_coverage(rows) == pytest.approx([1, 1, 2 / 3, 1 / 2])


def test_curve_averages_equally_confident_posts() -> None:
    rows = sure((0.9, True), (0.7, True), (0.7, False), (0.7, False), (0.6, True))
    rng, total, num_orders = np.random.default_rng(0), np.zeros(5), 4000
    for _ in range(num_orders):
        order = [0, *(1 + rng.permutation(3)), 4]
        total += hits([rows[k] for k in order]).cumsum() / np.arange(1, 6)
    assert accuracy_by_coverage(rows) == pytest.approx(total / num_orders, abs=0.02)
    assert accuracy_by_coverage(rows) == pytest.approx(accuracy_by_coverage(rows[::-1]))


def test_area_of_the_best_order() -> None:
    rows = sure(*[(0.9 - k / 100, True) for k in range(8)], (0.5, False), (0.45, False))
    assert risk_coverage_area(rows) == pytest.approx((1 / 9 + 2 / 10) / 10)


def test_area_of_equal_confidences() -> None:
    assert risk_coverage_area(sure((0.8, True), (0.8, False), (0.8, False), (0.8, True))) == pytest.approx(0.5)
