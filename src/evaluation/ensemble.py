"""Ensemble selection: weights of systems whose mean probabilities are the best on validation.

R. Caruana, A. Niculescu-Mizil, G. Crew and A. Ksikes, Ensemble Selection from Libraries of Models, ICML 2004: greedy
selection with replacement (section 2.1) from a sorted start (2.2), averaged over bags of the library (2.3).

The metric is the mean log-likelihood. Macro-F1 moves by steps of whole posts, so a few hundred validation posts give
many ties, and a greedy search fits those steps. Every post moves the log-likelihood, by as much as its probability.

Suffixes of shapes: M members, N posts, K labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from src.core.records import Prediction, labels_of
from src.evaluation.calibration import (
    MIN_PROBABILITY,
    actual_columns,
    best_temperature,
    log_loss,
    probabilities,
    scaled,
)

Array = NDArray[np.float64]

# Additions to a bag's ensemble. The best ensemble on the way counts, so more of them can only help.
_STEPS = 40


@dataclass(frozen=True)
class Bagging:
    """The bags of a selection: random subsets of the library, each with an ensemble of its own."""

    # One bag is the whole library.
    bags: int
    # The share of the library that a bag holds, rounded up.
    share: float
    seed: int


@dataclass(frozen=True)
class Selection:
    """Members of an ensemble, chosen on validation."""

    # By member, the largest first, then by name. They are positive and sum to 1.
    weights: Mapping[str, float]
    # Fitted on validation (`best_temperature`).
    temperature: float


def select(library: Mapping[str, Sequence[Prediction]], bagging: Bagging) -> Selection:
    """Choose members and weights on validation. The order of the library makes no difference.

    An ensemble that is worse on validation than its best member gives way to that member: in a small library many bags
    may lack it.

    Args:
        library: the validation predictions of each system, all of the same posts in the same order.
        bagging: how often the selection is repeated, and on how much of the library.
    """
    names = sorted(library)
    probabilities_MNK = np.stack([probabilities(library[name]) for name in names])
    actual_N = actual_columns(library[names[0]])
    # The mean of probabilities needs no more than those of the actual labels.
    likelihood_MN = probabilities_MNK[:, np.arange(len(actual_N)), actual_N]
    weights_M = np.mean([_greedy(likelihood_MN, places) for places in _bags(len(names), bagging)], axis=0)
    singles_MM = np.eye(len(names))
    best_M = max(singles_MM, key=lambda single_M: _score(single_M @ likelihood_MN))
    if _score(weights_M @ likelihood_MN) < _score(best_M @ likelihood_MN):
        weights_M = best_M
    weights = {name: float(weight) for name, weight in zip(names, weights_M, strict=True) if weight}
    ranked = dict(sorted(weights.items(), key=lambda entry: (-entry[1], entry[0])))
    return Selection(ranked, best_temperature(mean_of(library, ranked)))


def mean_of(library: Mapping[str, Sequence[Prediction]], weights: Mapping[str, float]) -> list[Prediction]:
    """Return the weighted mean of the members' probabilities, with its most probable labels.

    Args:
        library: the predictions of each member, all of the same posts in the same order.
        weights: by member; they sum to 1.
    """
    members = [library[name] for name in weights]
    labels = labels_of(members[0])
    # In float64 and in a fixed order, so that equal inputs give equal bytes.
    mean_NK = sum(weight * probabilities(library[name]) for name, weight in weights.items())
    return [
        Prediction(row.id, row.actual, labels[means.index(max(means))], dict(zip(labels, means, strict=True)))
        for row, means in zip(members[0], np.asarray(mean_NK).tolist(), strict=True)
    ]


def answers_of(library: Mapping[str, Sequence[Prediction]], selection: Selection) -> list[Prediction]:
    """Return the ensemble's predictions: the weighted mean of its members', scaled by the temperature."""
    return scaled(mean_of(library, selection.weights), selection.temperature)


def best_prefix(ranked: Sequence[Sequence[Prediction]]) -> tuple[int, list[float]]:
    """Choose k on validation, so that the plain mean of the first k is the best; the smallest k of equal ones.

    Args:
        ranked: the validation predictions of each system, the best system first.

    Returns:
        k, and the mean negative log-likelihood in nats a post of each k from 1 on.
    """
    library = {str(place): rows for place, rows in enumerate(ranked)}
    losses = [log_loss(mean_of(library, {str(place): 1 / k for place in range(k)})) for k in range(1, len(ranked) + 1)]
    return int(np.argmin(losses)) + 1, losses


def _bags(num_members: int, bagging: Bagging) -> list[NDArray[np.int64]]:
    """Return the places of each bag's members in the library, in order."""
    if bagging.bags == 1:
        return [np.arange(num_members)]
    rng = np.random.default_rng(bagging.seed)
    size = int(np.ceil(bagging.share * num_members))
    return [np.sort(rng.choice(num_members, size, replace=False)) for _ in range(bagging.bags)]


def _greedy(likelihood_MN: Array, places: NDArray[np.int64]) -> Array:
    """Return weights_M of the best ensemble that greedy selection with replacement meets among some members."""
    inside_MN = likelihood_MN[places]
    counts_M = _sorted_start(inside_MN)
    best_M, best_score = counts_M.copy(), _score(counts_M @ inside_MN / counts_M.sum())
    for _ in range(_STEPS):
        sums_MN = counts_M @ inside_MN + inside_MN
        scores = [_score(sum_N / (counts_M.sum() + 1)) for sum_N in sums_MN]
        chosen = int(np.argmax(scores))
        counts_M[chosen] += 1
        if scores[chosen] > best_score:
            best_M, best_score = counts_M.copy(), scores[chosen]
    weights_M = np.zeros(len(likelihood_MN))
    weights_M[places] = best_M / best_M.sum()
    return weights_M


def _sorted_start(likelihood_MN: Array) -> Array:
    """Return counts_M of the start: the best n members once each, with the n whose mean is the best."""
    # A stable sort: members of equal scores stay in the order of their names.
    order = np.argsort([-_score(likelihood_N) for likelihood_N in likelihood_MN], kind="stable")
    sums_MN = np.cumsum(likelihood_MN[order], axis=0)
    n = int(np.argmax([_score(sum_N / count) for count, sum_N in enumerate(sums_MN, start=1)])) + 1
    counts_M = np.zeros(len(likelihood_MN))
    counts_M[order[:n]] = 1
    return counts_M


def _score(likelihood_N: Array) -> float:
    """Return the mean log-likelihood, in nats a post."""
    return float(np.log(np.maximum(likelihood_N, MIN_PROBABILITY)).mean())
