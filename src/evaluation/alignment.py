"""Whether a model is right more often where picture and caption go together: image-text alignment and correctness.

Alignment is the cosine of CLIP's embeddings of both (J. Hessel et al., CLIPScore, EMNLP 2021). It may be set against
the predictions of any model.

Suffixes of shapes: N posts, G groups of near-duplicates.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import spearmanr

from src.core.estimates import AlignmentCorrelation, AlignmentQuartile
from src.core.records import Interval, Prediction
from src.evaluation.intervals import RESAMPLES, Array, cluster_bootstrap, intervals

NUM_QUARTILES = 4


def alignment_correlation(
    cosine_of: Mapping[str, float],
    predictions: Sequence[Prediction],
    group_of: Mapping[str, str],
    seed: int,
    resamples: int = RESAMPLES,
) -> AlignmentCorrelation | None:
    """How alignment goes with being right; None where no post has both.

    Args:
        cosine_of: the alignment of posts, by id.
        predictions: of labelled posts; those without a cosine are left out.
        group_of: the group of near-duplicates that each post belongs to, by id.
        seed: equal seeds give equal intervals.
        resamples: how often groups are drawn.
    """
    found = sorted((row for row in predictions if row.id in cosine_of), key=lambda row: cosine_of[row.id])
    if not found:
        return None
    cosine_N = np.array([cosine_of[row.id] for row in found])
    right_N = np.array([float(row.predicted == row.actual) for row in found])
    groups = [group_of[row.id] for row in found]
    alike = np.ptp(cosine_N) == 0 or np.ptp(right_N) == 0
    return AlignmentCorrelation(
        n=len(found),
        mean=float(cosine_N.mean()),
        point_biserial=None if alike else point_biserial(cosine_N, right_N, groups, seed, resamples),
        spearman=None if alike else float(spearmanr(cosine_N, right_N).statistic),
        quartiles=tuple(
            _quartile([found[place] for place in places], cosine_of, group_of, seed, resamples)
            for places in np.array_split(np.arange(len(found)), NUM_QUARTILES)
            if len(places)
        ),
    )


def point_biserial(
    cosine_N: Array, right_N: Array, groups: Sequence[str], seed: int, resamples: int = RESAMPLES
) -> Interval:
    """Pearson's correlation of cosines with being right (1) or wrong (0), neither all alike.

    Args:
        cosine_N: of any scale.
        right_N: zeros and ones.
        groups: the group of near-duplicates of each post.
        seed: equal seeds give equal intervals.
        resamples: how often groups are drawn; one of posts all alike counts as no correlation.
    """
    # Cosines lie close together, so that sums of squares would lose digits unless their mean is taken off.
    x_N = cosine_N - cosine_N.mean()
    sums_NC = np.stack([np.ones_like(x_N), x_N, x_N**2, right_N, x_N * right_N], axis=-1)
    _, group_N = np.unique(groups, return_inverse=True)
    sums_GC = np.zeros((group_N.max() + 1, sums_NC.shape[1]))
    np.add.at(sums_GC, group_N, sums_NC)
    return cluster_bootstrap(sums_GC, _correlation, seed, resamples).intervals[0]


def _correlation(sums_xC: Array) -> Array:
    """Pearson's correlation (1, ...) from sums; 0 of posts all alike, which show none."""
    n_x, x_x, xx_x, right_x, x_right_x = np.moveaxis(sums_xC, -1, 0)
    together_x, spread_x = n_x * x_right_x - x_x * right_x, (n_x * xx_x - x_x**2) * (n_x * right_x - right_x**2)
    found_x: Array = np.divide(together_x, np.sqrt(spread_x), out=np.zeros_like(spread_x), where=spread_x > 0)
    return found_x[None]


def _quartile(
    rows: Sequence[Prediction], cosine_of: Mapping[str, float], group_of: Mapping[str, str], seed: int, resamples: int
) -> AlignmentQuartile:
    accuracy = intervals(rows, group_of, seed, resamples)["accuracy"]
    return AlignmentQuartile(cosine_of[rows[0].id], cosine_of[rows[-1].id], len(rows), accuracy)
