"""Do systems know how sure they may be? Expected calibration error, reliability, and temperature scaling.

Source: C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017 (sections 2 and 4.2).

Suffixes of shapes: N posts, K tones, M bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from src.core.labels import TONES
from src.core.records import Bin, Prediction

Array = NDArray[np.float64]


BINS = 15


_TEMPERATURES = (0.01, 100.0)


# A probability of 0, as rounded by who wrote it, is taken for this: its logarithm must be a number.
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error and negative log-likelihood (nats a post), before and after temperature scaling."""

    ece: float
    ece_scaled: float
    temperature: float
    nll: float
    nll_scaled: float


def calibrate(val: Sequence[Prediction], test: Sequence[Prediction]) -> Calibration:
    """How well a system is calibrated on the test part, by itself and at the temperature that suits validation."""
    temperature = best_temperature(val)
    softened = scaled(test, temperature)
    return Calibration(
        ece=expected_calibration_error(reliability(test)),
        ece_scaled=expected_calibration_error(reliability(softened)),
        temperature=temperature,
        nll=log_loss(test),
        nll_scaled=log_loss(softened),
    )


def reliability(predictions: Sequence[Prediction], bins: int = BINS) -> list[Bin]:
    """The bins of a reliability diagram, of equal width from 0 to 1."""
    edges, confidence_N, right_N = np.linspace(0, 1, bins + 1), confidences(predictions), hits(predictions)
    bin_N = np.searchsorted(edges[1:-1], confidence_N)
    found = []
    for k in range(bins):
        inside_N = bin_N == k
        posts = int(inside_N.sum())
        means = [float(values_N[inside_N].mean()) if posts else None for values_N in (confidence_N, right_N)]
        found.append(Bin(float(edges[k]), float(edges[k + 1]), posts, *means))
    return found


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """The mean distance of accuracy and confidence over bins, each as heavy as its posts: a share between 0 and 1."""
    gaps = [
        each.posts * abs(each.accuracy - each.confidence)
        for each in bins
        if each.accuracy is not None and each.confidence is not None
    ]
    return sum(gaps) / sum(each.posts for each in bins)


def best_temperature(predictions: Sequence[Prediction]) -> float:
    """The temperature, 0.01 to 100, at which predictions have the least negative log-likelihood.

    Above 1 the system was too sure of itself. It is 1 where no temperature is better, and at an end of what may be
    chosen where posts are all judged rightly (0.01) or no better than by chance (100).
    """
    logits_NK, actual_N = _logits(predictions), _actual(predictions)
    # By its logarithm, for half and double are equally far from 1.
    found = minimize_scalar(
        lambda log_t: _nll(logits_NK / np.exp(log_t), actual_N),
        bounds=tuple(np.log(_TEMPERATURES)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x)) if found.fun < _nll(logits_NK, actual_N) else 1.0


def scaled(predictions: Sequence[Prediction], temperature: float) -> list[Prediction]:
    """The predictions at another temperature: softmax(log p / T). What is predicted stays the same."""
    probabilities_NK = softmax(_logits(predictions) / temperature, axis=1)
    return [
        Prediction(row.id, row.actual, row.predicted, *probabilities_K)
        for row, probabilities_K in zip(predictions, probabilities_NK.tolist(), strict=True)
    ]


def log_loss(predictions: Sequence[Prediction]) -> float:
    """The mean negative log-likelihood of the actual tones, in nats a post."""
    return _nll(_logits(predictions), _actual(predictions))


def confidences(predictions: Sequence[Prediction]) -> Array:
    """The probability of what is predicted (N)."""
    return np.array([getattr(row, row.predicted) for row in predictions])


def hits(predictions: Sequence[Prediction]) -> Array:
    """1 where the prediction is right, else 0 (N)."""
    return np.array([float(row.actual == row.predicted) for row in predictions])


def _logits(predictions: Sequence[Prediction]) -> Array:
    """The logarithms of the probabilities (N, K): the logits, up to what is the same for all tones."""
    probabilities_NK: Array = np.array([[getattr(row, tone) for tone in TONES] for row in predictions])
    return np.log(np.maximum(probabilities_NK, _SMALLEST))


def _actual(predictions: Sequence[Prediction]) -> NDArray[np.int64]:
    return np.array([TONES.index(row.actual) for row in predictions])


def _nll(logits_NK: Array, actual_N: NDArray[np.int64]) -> float:
    return float(-log_softmax(logits_NK, axis=1)[np.arange(len(actual_N)), actual_N].mean())


def accuracy_by_coverage(predictions: Sequence[Prediction]) -> Array:
    """The accuracy on the 1, 2, ... N posts of highest confidence (N).

    Posts of equal confidence are kept in no order, so among them stands what is to be expected of a random one.
    """
    confidence_N, right_N = confidences(predictions), hits(predictions)
    order_N = np.argsort(-confidence_N, kind="stable")
    confidence_N, kept_N = confidence_N[order_N], np.arange(1, len(order_N) + 1)
    # Where the next post is less sure: there alone the number of hits does not depend on the order of equals.
    ends = np.append(np.flatnonzero(np.diff(confidence_N)), len(order_N) - 1)
    hits_at_ends = right_N[order_N].cumsum()[ends]
    hits_N = np.interp(kept_N, np.append(0, kept_N[ends]), np.append(0, hits_at_ends))
    return np.asarray(hits_N / kept_N)


def risk_coverage_area(predictions: Sequence[Prediction]) -> float:
    """The area under the risk-coverage curve: the mean share of errors over all coverages, the lower the better."""
    return float(1 - accuracy_by_coverage(predictions).mean())
