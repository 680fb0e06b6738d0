"""Calibration of confidences and selective prediction.

Expected calibration error, reliability and temperature scaling: C. Guo et al., On Calibration of Modern Neural
Networks, ICML 2017 (sections 2 and 4.2). Selective prediction: Y. Geifman and R. El-Yaniv, NeurIPS 2017; the area
under its curve: Y. Geifman, G. Uziel and R. El-Yaniv, Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers,
ICLR 2019.

Suffixes of shapes: N posts, K labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from src.core.files import DECIMALS
from src.core.records import Bin, Prediction, labels_of

Array = NDArray[np.float64]

BINS = 15
_TEMPERATURES = (0.01, 100.0)
# Lower bound of a probability. Files round smaller ones to 0, so a 0 says no more than that.
MIN_PROBABILITY: float = 0.5 * 10**-DECIMALS


@dataclass(frozen=True)
class Calibration:
    """Calibration on the test part, before and after temperature scaling."""

    # Expected calibration error, a share between 0 and 1.
    ece: float
    ece_scaled: float
    # Fitted on validation; above 1 the system is overconfident.
    temperature: float
    # Mean negative log-likelihood, in nats per post.
    nll: float
    nll_scaled: float


def calibrate(val: Sequence[Prediction], test: Sequence[Prediction]) -> Calibration:
    """Measure calibration on the test part, before and after scaling by the temperature fitted on validation."""
    temperature = best_temperature(val)
    scaled_test = scaled(test, temperature)
    return Calibration(
        ece=expected_calibration_error(reliability(test)),
        ece_scaled=expected_calibration_error(reliability(scaled_test)),
        temperature=temperature,
        nll=log_loss(test),
        nll_scaled=log_loss(scaled_test),
    )


def reliability(predictions: Sequence[Prediction], bins: int = BINS) -> list[Bin]:
    """Return the bins of a reliability diagram, of equal width from 0 to 1."""
    edges = np.linspace(0, 1, bins + 1)
    confidence_N = confidences(predictions)
    correct_N = hits(predictions)
    bin_N = np.searchsorted(edges[1:-1], confidence_N)
    diagram = []
    for k in range(bins):
        inside_N = bin_N == k
        posts = int(inside_N.sum())
        means = [float(values_N[inside_N].mean()) if posts else None for values_N in (confidence_N, correct_N)]
        diagram.append(Bin(float(edges[k]), float(edges[k + 1]), posts, *means))
    return diagram


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Return the mean of abs(accuracy - confidence) over bins, weighted by posts: a share between 0 and 1."""
    gaps = [
        each_bin.posts * abs(each_bin.accuracy - each_bin.confidence)
        for each_bin in bins
        if each_bin.accuracy is not None and each_bin.confidence is not None
    ]
    return sum(gaps) / sum(each_bin.posts for each_bin in bins)


def best_temperature(predictions: Sequence[Prediction]) -> float:
    """Return the temperature, 0.01 to 100, that minimises the negative log-likelihood.

    Above 1 the system is overconfident. The result is 1 if no temperature is better. It is 0.01 if all predictions are
    correct, and 100 if they are no better than chance.
    """
    logits_NK = _logits(predictions)
    actual_N = actual_columns(predictions)
    # The search runs over the logarithm: half and double are equally far from 1.
    minimum = minimize_scalar(
        lambda log_t: _nll(logits_NK / np.exp(log_t), actual_N),
        bounds=tuple(np.log(_TEMPERATURES)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(minimum.x)) if minimum.fun < _nll(logits_NK, actual_N) else 1.0


def scaled(predictions: Sequence[Prediction], temperature: float) -> list[Prediction]:
    """Scale probabilities by a temperature: softmax(log p / T). The predicted labels stay the same."""
    probabilities_NK = softmax(_logits(predictions) / temperature, axis=1)
    return [
        Prediction(row.id, row.actual, row.predicted, dict(zip(row.probabilities, probabilities_K, strict=True)))
        for row, probabilities_K in zip(predictions, probabilities_NK.tolist(), strict=True)
    ]


def log_loss(predictions: Sequence[Prediction]) -> float:
    """Return the mean negative log-likelihood of the actual labels, in nats per post."""
    return _nll(_logits(predictions), actual_columns(predictions))


def confidences(predictions: Sequence[Prediction]) -> Array:
    """Return the probabilities of the predicted labels (N)."""
    return np.array([row.confidence for row in predictions])


def hits(predictions: Sequence[Prediction]) -> Array:
    """Return 1 for each correct prediction and 0 for each wrong one (N)."""
    return np.array([float(row.actual == row.predicted) for row in predictions])


def probabilities(predictions: Sequence[Prediction]) -> Array:
    """Return the probabilities of all labels (N, K)."""
    return np.array([list(row.probabilities.values()) for row in predictions])


def _logits(predictions: Sequence[Prediction]) -> Array:
    """Return the logarithms of the probabilities (N, K): the logits, up to a constant per post."""
    return np.log(np.maximum(probabilities(predictions), MIN_PROBABILITY))


def actual_columns(predictions: Sequence[Prediction]) -> NDArray[np.int64]:
    """Return the columns of the actual labels among the probabilities (N)."""
    labels = labels_of(predictions)
    return np.array([labels.index(row.actual) for row in predictions])


def _nll(logits_NK: Array, actual_N: NDArray[np.int64]) -> float:
    return float(-log_softmax(logits_NK, axis=1)[np.arange(len(actual_N)), actual_N].mean())


def accuracy_by_coverage(predictions: Sequence[Prediction]) -> Array:
    """Return the accuracy on the 1, 2, ... N posts of highest confidence (N).

    Posts of equal confidence have no order. Among them, the curve holds the expected value over random orders.
    """
    confidence_N = confidences(predictions)
    correct_N = hits(predictions)
    order_N = np.argsort(-confidence_N, kind="stable")
    confidence_N = confidence_N[order_N]
    kept_N = np.arange(1, len(order_N) + 1)
    # The last post of each run of equal confidence: only there, the number of hits is independent of their order.
    ends = np.append(np.flatnonzero(np.diff(confidence_N)), len(order_N) - 1)
    hits_at_ends = correct_N[order_N].cumsum()[ends]
    hits_N = np.interp(kept_N, np.append(0, kept_N[ends]), np.append(0, hits_at_ends))
    return np.asarray(hits_N / kept_N)


def risk_coverage_area(predictions: Sequence[Prediction]) -> float:
    """Return the area under the risk-coverage curve: the mean error rate over all coverages. Lower is better."""
    return float(1 - accuracy_by_coverage(predictions).mean())
