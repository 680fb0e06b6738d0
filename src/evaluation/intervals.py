"""How far a score may lie from what it would be on all posts of this kind: bootstrap intervals.

Near-duplicates are no independent evidence, so what is drawn with replacement is not posts but their groups (cluster
bootstrap: A. C. Davison and D. V. Hinkley, Bootstrap Methods and their Application, 1997, section 3.8).

Intervals are BCa (B. Efron, Better Bootstrap Confidence Intervals, JASA 1987), not percentiles: F1 is biased and skewed
on few posts, and an accuracy is skewed near 1. Simulated, both cover alike at 500 posts; at 60, percentiles of macro-F1
cover in 92 of 100 cases and BCa in 95; at 20, percentiles of the accuracy in 90 and BCa in 95, but neither covers
macro-F1 in more than 81: a tone with three posts has not shown how it varies.

Suffixes of shapes: G groups, K tones, C counts (K * K, the confusion matrix in one row), F figures, R resamples.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, bootstrap

from src.core.estimates import Spread
from src.core.labels import TONES
from src.core.records import Interval, Prediction

Array = NDArray[np.float64]


# Of sums of counts (..., C) the figures (F, ...).
Statistic = Callable[[Array], Array]


SCORES = ("accuracy", "macro_f1", "weighted_f1")


CONFIDENCE = 0.95


# So many that the smallest p-value, 2 / (R + 1), survives a correction for some hundred comparisons.
RESAMPLES = 9_999


_BATCH = 1_000


@dataclass(frozen=True)
class Resampled:
    """What a bootstrap found: an interval for each of the F figures, and their values in each resample (F, R)."""

    intervals: tuple[Interval, ...]
    draws_FR: Array


def intervals(
    predictions: Sequence[Prediction], group_of: Mapping[str, str], seed: int, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """The figures of `SCORES` on some posts, one at least, each with its interval.

    Args:
        predictions: of labelled posts.
        group_of: the group of near-duplicates that each post belongs to, by id.
        seed: equal seeds give equal intervals.
        resamples: how often groups are drawn.
    """
    counts_GC = group_counts(predictions, group_of)
    found = cluster_bootstrap(counts_GC, figures_of, seed, resamples).intervals
    return dict(zip(SCORES, found, strict=True))


def tone_intervals(
    predictions: Sequence[Prediction], group_of: Mapping[str, str], seed: int, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """The F1 of each tone, as f1_TONE, with its interval; the arguments are those of `intervals`."""
    found = cluster_bootstrap(group_counts(predictions, group_of), f1_of, seed, resamples).intervals
    return {f"f1_{tone}": interval for tone, interval in zip(TONES, found, strict=True)}


def group_counts(predictions: Sequence[Prediction], group_of: Mapping[str, str]) -> Array:
    """The confusion matrix of each group (G, C), rows of a matrix actual; groups in the order of their first post."""
    groups = list(dict.fromkeys(group_of[row.id] for row in predictions))
    row_of = {group: row for row, group in enumerate(groups)}
    counts_GKK = np.zeros((len(groups), len(TONES), len(TONES)))
    for row in predictions:
        counts_GKK[row_of[group_of[row.id]], TONES.index(row.actual), TONES.index(row.predicted)] += 1
    return counts_GKK.reshape(len(groups), -1)


def figures_of(counts_xC: Array) -> Array:
    """The figures of `SCORES` (F, ...) of confusion matrices in one row (..., C).

    As in `src.evaluation.metrics`: all three tones count, and one that is neither there nor predicted has F1 0.
    """
    counts_xKK = _matrices(counts_xC)
    right_x, actual_xK = np.diagonal(counts_xKK, axis1=-2, axis2=-1).sum(-1), counts_xKK.sum(-1)
    f1_xK, posts_x = np.moveaxis(f1_of(counts_xC), 0, -1), actual_xK.sum(-1)
    return np.stack([right_x / posts_x, f1_xK.mean(-1), (f1_xK * actual_xK).sum(-1) / posts_x])


def f1_of(counts_xC: Array) -> Array:
    """The F1 of each tone (K, ...) of the same; 0 of one that is neither there nor predicted."""
    counts_xKK = _matrices(counts_xC)
    both_xK = counts_xKK.sum(-1) + counts_xKK.sum(-2)
    right_xK = np.diagonal(counts_xKK, axis1=-2, axis2=-1)
    f1_xK = np.divide(2 * right_xK, both_xK, out=np.zeros_like(both_xK), where=both_xK > 0)
    return np.moveaxis(f1_xK, -1, 0)


def cluster_bootstrap(counts_GC: Array, statistic: Statistic, seed: int, resamples: int) -> Resampled:
    """A statistic of the sum of all groups' counts, and what it is when as many groups are drawn with replacement."""
    num_groups = len(counts_GC)
    values_F = statistic(counts_GC.sum(0))
    if num_groups == 1:
        return Resampled(tuple(Interval(float(value), None, None) for value in values_F), values_F[:, None])

    def of_groups(drawn_xG: NDArray[np.int64], axis: int = -1) -> Array:
        return statistic(_times_drawn(drawn_xG, num_groups) @ counts_GC)

    # Of what is the same in all resamples the spread is 0, and BCa divides by it: its ends are NaN, said here as None.
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)
        found = bootstrap(
            (np.arange(num_groups),),
            of_groups,
            n_resamples=resamples,
            batch=_BATCH,
            vectorized=True,
            confidence_level=CONFIDENCE,
            method="BCa",
            rng=np.random.default_rng(seed),
        )
    return Resampled(_intervals(values_F, *found.confidence_interval), found.bootstrap_distribution)


def _matrices(counts_xC: Array) -> Array:
    return counts_xC.reshape(*counts_xC.shape[:-1], len(TONES), len(TONES))


def _times_drawn(drawn_xG: NDArray[np.int64], num_groups: int) -> Array:
    """How often each group is among those drawn (..., G): a product with their counts is faster than to gather them."""
    rows = drawn_xG.reshape(-1, drawn_xG.shape[-1])
    places = rows + num_groups * np.arange(len(rows))[:, None]
    times = np.bincount(places.ravel(), minlength=len(rows) * num_groups)
    return times.reshape(*drawn_xG.shape[:-1], num_groups).astype(float)


def _intervals(values_F: Array, low_F: Array, high_F: Array) -> tuple[Interval, ...]:
    return tuple(
        Interval(float(value), float(low), float(high)) if low < high else Interval(float(value), None, None)
        for value, low, high in zip(values_F, low_F, high_F, strict=True)
    )


_CONFIDENCE = 0.95


def spread_of(values: Sequence[float]) -> Spread:
    """The spread of one value or more. For a gain give the differences of pairs that share a seed."""
    centre, n = mean(values), len(values)
    if n == 1:
        return Spread(centre, None, n)
    sd = stdev(values)
    if math.isclose(min(values), max(values), abs_tol=1e-9):
        return Spread(centre, sd, n)
    from scipy.stats import t

    low, high = t.interval(_CONFIDENCE, n - 1, centre, sd / math.sqrt(n))
    return Spread(centre, sd, n, float(low), float(high))
