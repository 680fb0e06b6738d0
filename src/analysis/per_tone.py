"""How far the F1 of each tone may lie from what it would be on all posts of this kind.

Suffixes of shapes: see `intervals`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from src.analysis.intervals import RESAMPLES, Array, Interval, cluster_bootstrap, group_counts
from src.core.labels import TONES
from src.core.records import Prediction


def tone_intervals(
    predictions: Sequence[Prediction], group_of: Mapping[str, str], seed: int, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """The F1 of each tone, as f1_TONE, with its interval; the arguments are those of `intervals`."""
    found = cluster_bootstrap(group_counts(predictions, group_of), _f1_of, seed, resamples).intervals
    return {f"f1_{tone}": interval for tone, interval in zip(TONES, found, strict=True)}


def _f1_of(counts_xC: Array) -> Array:
    """The F1 of each tone (K, ...) of counts (..., C); 0 of one that is neither there nor predicted."""
    counts_xKK = counts_xC.reshape(*counts_xC.shape[:-1], len(TONES), len(TONES))
    both_xK = counts_xKK.sum(-1) + counts_xKK.sum(-2)
    right_xK = np.diagonal(counts_xKK, axis1=-2, axis2=-1)
    f1_xK = np.divide(2 * right_xK, both_xK, out=np.zeros_like(both_xK), where=both_xK > 0)
    return np.moveaxis(f1_xK, -1, 0)
