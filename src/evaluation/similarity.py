"""Correlation of image-text similarity with correct predictions.

Similarity is the cosine of CLIP's embeddings of image and caption (J. Hessel et al., CLIPScore, EMNLP 2021). The
predictions may be those of any model.

Suffixes of shapes: N posts, G groups of near-duplicates, C columns of sums.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import spearmanr

from src.core.estimates import SimilarityCorrelation, SimilarityQuartile
from src.core.records import Interval, Prediction
from src.evaluation.intervals import RESAMPLES, Array, cluster_bootstrap, intervals

NUM_QUARTILES = 4


def similarity_correlation(
    cosine_of: Mapping[str, float],
    predictions: Sequence[Prediction],
    group_of: Mapping[str, str],
    seed: int,
    resamples: int = RESAMPLES,
) -> SimilarityCorrelation | None:
    """Correlate similarity with correct predictions; None if no post has both.

    Args:
        cosine_of: the similarity of posts, by id.
        predictions: of labelled posts; posts without a cosine are left out.
        group_of: the group of near-duplicates of each post, by id.
        seed: equal seeds give equal intervals.
        resamples: the number of bootstrap resamples.
    """
    rows = sorted((row for row in predictions if row.id in cosine_of), key=lambda row: cosine_of[row.id])
    if not rows:
        return None
    cosine_N = np.array([cosine_of[row.id] for row in rows])
    correct_N = np.array([float(row.predicted == row.actual) for row in rows])
    groups = [group_of[row.id] for row in rows]
    is_constant = np.ptp(cosine_N) == 0 or np.ptp(correct_N) == 0
    return SimilarityCorrelation(
        n=len(rows),
        mean=float(cosine_N.mean()),
        point_biserial=None if is_constant else point_biserial(cosine_N, correct_N, groups, seed, resamples),
        spearman=None if is_constant else float(spearmanr(cosine_N, correct_N).statistic),
        quartiles=tuple(
            _quartile([rows[index] for index in indices], cosine_of, group_of, seed, resamples)
            for indices in np.array_split(np.arange(len(rows)), NUM_QUARTILES)
            if len(indices)
        ),
    )


def point_biserial(
    cosine_N: Array, correct_N: Array, groups: Sequence[str], seed: int, resamples: int = RESAMPLES
) -> Interval:
    """Compute Pearson's correlation of cosines with correct predictions, with its interval.

    Args:
        cosine_N: of any scale, not all equal.
        correct_N: ones (correct) and zeros (wrong), not all equal.
        groups: the group of near-duplicates of each post.
        seed: equal seeds give equal intervals.
        resamples: the number of bootstrap resamples. A resample of equal posts counts as correlation 0.
    """
    # Cosines lie close together. Sums of squares would lose digits unless the mean is subtracted first.
    x_N = cosine_N - cosine_N.mean()
    sums_NC = np.stack([np.ones_like(x_N), x_N, x_N**2, correct_N, x_N * correct_N], axis=-1)
    _, group_N = np.unique(groups, return_inverse=True)
    sums_GC = np.zeros((group_N.max() + 1, sums_NC.shape[1]))
    np.add.at(sums_GC, group_N, sums_NC)
    return cluster_bootstrap(sums_GC, _correlation, seed, resamples).intervals[0]


def _correlation(sums_xC: Array) -> Array:
    """Compute Pearson's correlation (1, ...) from sums (..., C); 0 if all posts are equal."""
    n_x, x_x, xx_x, correct_x, x_correct_x = np.moveaxis(sums_xC, -1, 0)
    covariance_x = n_x * x_correct_x - x_x * correct_x
    variances_x = (n_x * xx_x - x_x**2) * (n_x * correct_x - correct_x**2)
    correlation_x: Array = np.divide(
        covariance_x, np.sqrt(variances_x), out=np.zeros_like(variances_x), where=variances_x > 0
    )
    return correlation_x[None]


def _quartile(
    rows: Sequence[Prediction], cosine_of: Mapping[str, float], group_of: Mapping[str, str], seed: int, resamples: int
) -> SimilarityQuartile:
    accuracy = intervals(rows, group_of, seed, resamples)["accuracy"]
    return SimilarityQuartile(cosine_of[rows[0].id], cosine_of[rows[-1].id], len(rows), accuracy)
