"""Is one system better than another on the same posts, or can so many posts not tell?

Two tests of the accuracy, for each fails where the other holds. McNemar's (Q. McNemar, Psychometrika 1947), here exact,
is right on however few posts, but takes near-duplicates for independent evidence: with a twin of every post it errs at
5% in 16 of 100 cases. The paired bootstrap of groups (B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap,
1993, chapter 16) does not, but on few posts its far tails are too thin for the small levels that a correction
asks for: on 24 posts, at a level of 5% / 22, it errs three times as often as it may. Therefore the larger of the two
p-values decides: that the systems are alike is rejected only where both tests reject it, which errs no more often than
the better of the two (intersection-union test: R. L. Berger, Technometrics 1982). The tests simulate both failures.

A family of comparisons is corrected by Holm's method (S. Holm, Scandinavian Journal of Statistics 1979).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from src.core.estimates import Comparison, Verdict, VerdictAnswer
from src.core.records import Prediction
from src.evaluation.intervals import RESAMPLES, Array, cluster_bootstrap, figures_of, group_counts

ALPHA = 0.05
POWER = 0.8


def compare(
    first: Sequence[Prediction],
    second: Sequence[Prediction],
    group_of: Mapping[str, str],
    seed: int,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare what two systems say of the same posts, one at least, given in the same order.

    Args:
        first: predictions of the one.
        second: predictions of the other.
        group_of: the group of near-duplicates that each post belongs to, by id.
        seed: equal seeds give equal results.
        resamples: how often groups are drawn.
    """
    counts_GC = np.concatenate([group_counts(first, group_of), group_counts(second, group_of)], axis=1)
    found = cluster_bootstrap(counts_GC, _differences, seed, resamples)
    right = [(a.actual == a.predicted, b.actual == b.predicted) for a, b in zip(first, second, strict=True)]
    only_first, only_second = right.count((True, False)), right.count((False, True))
    return Comparison(
        posts=len(right),
        only_first=only_first,
        only_second=only_second,
        accuracy=found.intervals[0],
        macro_f1=found.intervals[1],
        mcnemar_p=float(mcnemar([[0, only_first], [only_second, 0]], exact=True).pvalue),
        bootstrap_p=_bootstrap_p(found.draws_FR[0]),
        posts_needed=posts_needed(only_first / len(right), only_second / len(right)),
    )


def verdicts(family: Sequence[Comparison]) -> list[Verdict]:
    """The verdict of each comparison of a family, at a probability of 5% that any of them finds what is not there."""
    rejected, p_holm, _, _ = multipletests([each.p for each in family], alpha=ALPHA, method="holm")
    return [
        Verdict(_answer(bool(sure), each.accuracy.value), float(p))
        for sure, each, p in zip(rejected, family, p_holm, strict=True)
    ]


def posts_needed(only_first: float, only_second: float) -> int | None:
    """How many independent posts McNemar's test needs to see the observed difference in 80 of 100 cases.

    With d the difference of the two shares and s their sum, n = (z_0.975 √s + z_0.8 √(s - d²))² / d², for one two-sided
    test at 5% (R. J. Connor, Biometrics 1987; O. S. Miettinen, Biometrics 1968). None where the difference is 0.

    Args:
        only_first: share of the posts that the first system alone judges rightly.
        only_second: share that the second alone judges rightly.
    """
    difference, discordant = only_first - only_second, only_first + only_second
    if difference == 0:
        return None
    z_alpha, z_power = norm.ppf(1 - ALPHA / 2), norm.ppf(POWER)
    root = float(z_alpha * math.sqrt(discordant) + z_power * math.sqrt(discordant - difference**2))
    return math.ceil((root / difference) ** 2)


def _differences(counts_xC: Array) -> Array:
    first_xC, second_xC = np.split(counts_xC, 2, axis=-1)
    # Rounded, for BCa counts ties, and one difference of two shares may come out as several numbers.
    return np.round(figures_of(first_xC) - figures_of(second_xC), 12)


def _bootstrap_p(differences_R: Array) -> float:
    """Twice the share of resamples on the rarer side of no difference.

    Counting one more on both sides keeps it from 0 (Davison and Hinkley 1997, equation 4.11).
    """
    rarer = min(np.count_nonzero(differences_R <= 0), np.count_nonzero(differences_R >= 0))
    return min(1.0, 2 * (float(rarer) + 1) / (len(differences_R) + 1))


def _answer(sure: bool, difference: float) -> VerdictAnswer:
    if not sure:
        return "cannot tell"
    return "yes" if difference > 0 else "no"
