"""Selective prediction: how accurate a system is on the posts it is surest of, the others left to a reader.

Source: Y. Geifman and R. El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS 2017. Suffix of shapes:
N posts.
"""

from collections.abc import Sequence

import numpy as np

from src.analysis.calibration import Array, confidences, hits
from src.core.records import Prediction


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
