"""Paired comparison of two systems on the same posts, corrected for a family of comparisons.

Two tests of the accuracy are combined, because each fails where the other holds:

- McNemar's test (Q. McNemar, Psychometrika 1947) is exact here and valid for any number of posts. It treats
  near-duplicates as independent evidence: with a copy of every post, its error rate at 5% is 16%.
- The paired bootstrap of groups (B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 16)
  handles near-duplicates. On few posts its tails are too thin for the small levels of a correction: on 24 posts, at a
  level of 5% / 22, its error rate is three times the level.

The larger of the two p-values decides. Equality is rejected only if both tests reject it, which errs no more often than
the better test (intersection-union test: R. L. Berger, Technometrics 1982). The tests simulate both failures.

A family of comparisons is corrected by Holm's method (S. Holm, Scandinavian Journal of Statistics 1979).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from src.core.estimates import Comparison, Verdict, VerdictAnswer
from src.core.records import Interval, Prediction
from src.evaluation.intervals import RESAMPLES, Array, cluster_bootstrap, group_counts, scores_of

ALPHA = 0.05
POWER = 0.8


class TestedDifference(Protocol):
    """A difference of two accuracies, and the p-value that decides, not corrected for other comparisons."""

    @property
    def accuracy(self) -> Interval:
        """Return the difference, first minus second."""

    @property
    def p(self) -> float:
        """Return the two-sided p-value."""


def compare(
    first: Sequence[Prediction],
    second: Sequence[Prediction],
    group_of: Mapping[str, str],
    seed: int,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare the predictions of two systems on the same posts.

    Args:
        first: predictions of the first system, on at least one post.
        second: predictions of the second system, in the same order.
        group_of: the group of near-duplicates of each post, by id.
        seed: equal seeds give equal results.
        resamples: the number of bootstrap resamples.
    """
    counts_GC = np.concatenate([group_counts(first, group_of), group_counts(second, group_of)], axis=1)
    differences = cluster_bootstrap(counts_GC, _differences, seed, resamples)
    correct = [(a.actual == a.predicted, b.actual == b.predicted) for a, b in zip(first, second, strict=True)]
    only_first = correct.count((True, False))
    only_second = correct.count((False, True))
    return Comparison(
        posts=len(correct),
        only_first=only_first,
        only_second=only_second,
        accuracy=differences.intervals[0],
        macro_f1=differences.intervals[1],
        mcnemar_p=float(mcnemar([[0, only_first], [only_second, 0]], exact=True).pvalue),
        bootstrap_p=_bootstrap_p(differences.draws_FR[0]),
        posts_needed=posts_needed(only_first / len(correct), only_second / len(correct)),
    )


def verdicts(family: Sequence[TestedDifference]) -> list[Verdict]:
    """Return the verdict of each comparison. The probability of any false "yes" or "no" in the family is at most 5%."""
    if not family:
        return []
    rejected, p_holm, _, _ = multipletests([comparison.p for comparison in family], alpha=ALPHA, method="holm")
    return [
        Verdict(_answer(bool(is_significant), comparison.accuracy.value), float(p))
        for is_significant, comparison, p in zip(rejected, family, p_holm, strict=True)
    ]


def posts_needed(only_first: float, only_second: float) -> int | None:
    """Estimate the number of independent posts with which McNemar's test detects the observed difference at 80% power.

    With d the difference of the two shares and s their sum, n = (z_0.975 √s + z_0.8 √(s - d²))² / d², for one two-sided
    test at 5% (R. J. Connor, Biometrics 1987; O. S. Miettinen, Biometrics 1968). None if the
    difference is 0.

    Args:
        only_first: share of the posts that only the first system predicts correctly.
        only_second: share of the posts that only the second system predicts correctly.
    """
    difference = only_first - only_second
    discordant = only_first + only_second
    if difference == 0:
        return None
    z_alpha = norm.ppf(1 - ALPHA / 2)
    z_power = norm.ppf(POWER)
    root = float(z_alpha * math.sqrt(discordant) + z_power * math.sqrt(discordant - difference**2))
    return math.ceil((root / difference) ** 2)


def _differences(counts_xC: Array) -> Array:
    first_xC, second_xC = np.split(counts_xC, 2, axis=-1)
    # BCa counts ties. Without rounding, equal differences of shares may be several floats.
    return np.round(scores_of(first_xC) - scores_of(second_xC), 12)


def _bootstrap_p(differences_R: Array) -> float:
    """Return twice the share of resamples on the rarer side of 0.

    One more resample is counted on both sides, so the p-value is never 0 (Davison and Hinkley 1997, equation 4.11).
    """
    rarer = min(np.count_nonzero(differences_R <= 0), np.count_nonzero(differences_R >= 0))
    return min(1.0, 2 * (float(rarer) + 1) / (len(differences_R) + 1))


def _answer(is_significant: bool, difference: float) -> VerdictAnswer:
    if not is_significant:
        return "cannot tell"
    return "yes" if difference > 0 else "no"
