"""Means over trainings on several seeds: their scores, their differences, and whether they are better than a system.

Two things vary, and each has an interval and a test of its own. The posts are one draw: the bootstrap resamples groups
of near-duplicates, with the trainings as they are. The trainings are one draw of seeds: Student's t, on the same posts.

The larger of the two p-values decides, as in `comparison.py`. McNemar's test is for two systems. Here a paired
randomization test over groups takes its place (E. W. Noreen, Computer-Intensive Methods for Testing Hypotheses, 1989;
A. Yeh, COLING 2000). It keeps its level on few posts too, and keeps near-duplicates together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import permutation_test, ttest_1samp

from src.core.records import Interval, Prediction
from src.evaluation.intervals import RESAMPLES, SCORES, Array, cluster_bootstrap, group_counts, scores_of, spread_of
from src.evaluation.metrics import scores
from src.evaluation.systems import SEED, SEEDS, Kind, System

_BATCH = 1_000
# Predictions of the same posts in the same order, by the training's seed.
Trainings = Mapping[int, Sequence[Prediction]]


@dataclass(frozen=True)
class SeedMean:
    """The winner of a model's search, trained on several seeds: a system that is judged by the mean of its scores."""

    model: str
    # Of the test posts.
    test: Trainings
    kind: Kind = SEEDS

    @property
    def name(self) -> str:
        """Return the name in tables, such as clip seeds."""
        return f"{self.model} {self.kind}"


@dataclass(frozen=True)
class MeanComparison:
    """The mean of a first system's trainings against a second system on the same posts. Differences are in shares."""

    # Number of trainings, and of posts.
    seeds: int
    posts: int
    # Mean differences, with intervals over posts.
    accuracy: Interval
    macro_f1: Interval
    # The same means, with intervals over seeds.
    accuracy_over_seeds: Interval
    macro_f1_over_seeds: Interval
    # Two-sided p-values of the mean difference in accuracy, not corrected.
    posts_p: float
    seeds_p: float

    @property
    def p(self) -> float:
        """Return the p-value that decides: the larger of the two."""
        return max(self.posts_p, self.seeds_p)


def seed_means(further: Sequence[System]) -> list[SeedMean]:
    """Return the mean over seeds of each model that has two trainings or more among further trainings."""
    by_model: dict[str, dict[int, Sequence[Prediction]]] = {}
    for system in further:
        if system.kind == SEED and system.number is not None:
            by_model.setdefault(system.model, {})[system.number] = system.test
    return [SeedMean(model, trainings) for model, trainings in by_model.items() if len(trainings) > 1]


def mean_scores(
    trainings: Trainings, group_of: Mapping[str, str], seed: int, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """Return the mean over trainings of the scores of `SCORES`, each with its interval over posts.

    Args:
        trainings: at least one.
        group_of: the group of near-duplicates of each post, by id.
        seed: of the bootstrap. Equal seeds give equal intervals.
        resamples: the number of bootstrap resamples.
    """
    return _weighted_scores(list(trainings.values()), [1 / len(trainings)] * len(trainings), group_of, seed, resamples)


def mean_differences(
    first: Trainings, second: Trainings, group_of: Mapping[str, str], seed: int, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """Return the mean over trainings of the scores' differences, first minus second, each with its interval over posts.

    Seeds that one of the two lacks are left out. Without a common seed the result is empty. The other arguments are
    those of `mean_scores`.
    """
    common = [number for number in first if number in second]
    if not common:
        return {}
    rows = [first[number] for number in common] + [second[number] for number in common]
    weights = [1 / len(common)] * len(common) + [-1 / len(common)] * len(common)
    return _weighted_scores(rows, weights, group_of, seed, resamples)


def compare_mean(
    trainings: Trainings,
    second: Sequence[Prediction],
    group_of: Mapping[str, str],
    seed: int,
    resamples: int = RESAMPLES,
) -> MeanComparison:
    """Compare the mean of two trainings or more with one system, whose predictions are of the same posts in order.

    The other arguments are those of `mean_scores`.
    """
    rows = [*trainings.values(), second]
    weights = [1 / len(trainings)] * len(trainings) + [-1.0]
    over_posts = _weighted_scores(rows, weights, group_of, seed, resamples)
    of_second = scores(second)
    of_first = [scores(predictions) for predictions in trainings.values()]
    accuracies = [each.accuracy - of_second.accuracy for each in of_first]
    return MeanComparison(
        seeds=len(trainings),
        posts=len(second),
        accuracy=over_posts["accuracy"],
        macro_f1=over_posts["macro_f1"],
        accuracy_over_seeds=_over_seeds(accuracies),
        macro_f1_over_seeds=_over_seeds([each.macro_f1 - of_second.macro_f1 for each in of_first]),
        posts_p=_posts_p(trainings, second, group_of, seed, resamples),
        seeds_p=_seeds_p(accuracies),
    )


def _weighted_scores(
    rows: Sequence[Sequence[Prediction]],
    weights: Sequence[float],
    group_of: Mapping[str, str],
    seed: int,
    resamples: int,
) -> dict[str, Interval]:
    counts_GC = np.concatenate([group_counts(predictions, group_of) for predictions in rows], axis=1)

    def weighted_sum(counts_xC: Array) -> Array:
        scores_RFx = np.stack([scores_of(part_xC) for part_xC in np.split(counts_xC, len(rows), axis=-1)])
        # BCa counts ties. Without rounding, equal sums of shares may be several floats.
        total_Fx: Array = np.round(np.tensordot(weights, scores_RFx, axes=1), 12)
        return total_Fx

    result = cluster_bootstrap(counts_GC, weighted_sum, seed, resamples)
    return dict(zip(SCORES, result.intervals, strict=True))


def _over_seeds(differences: Sequence[float]) -> Interval:
    spread = spread_of(differences)
    return Interval(spread.mean, spread.low, spread.high)


def _posts_p(
    trainings: Trainings, second: Sequence[Prediction], group_of: Mapping[str, str], seed: int, resamples: int
) -> float:
    """Return the p-value of a randomization test: under equality, each group's difference may have either sign."""
    right_G = sum(_right(predictions, group_of) for predictions in trainings.values())
    # Counts and not means, so that equal sums are equal.
    differences_G = right_G - len(trainings) * _right(second, group_of)
    result = permutation_test(
        (differences_G,),
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=_BATCH,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def _right(predictions: Sequence[Prediction], group_of: Mapping[str, str]) -> Array:
    """Count the right answers in each group (G)."""
    counts_GC = group_counts(predictions, group_of)
    num_labels = math.isqrt(counts_GC.shape[1])
    right_G: Array = counts_GC[:, :: num_labels + 1].sum(axis=1)
    return right_G


def _seeds_p(differences: Sequence[float]) -> float:
    """Return the p-value of Student's t of a mean of 0. Without any spread only a mean of 0 itself is possible."""
    if math.isclose(min(differences), max(differences), abs_tol=1e-9):
        return float(math.isclose(differences[0], 0, abs_tol=1e-9))
    return float(ttest_1samp(differences, 0).pvalue)
