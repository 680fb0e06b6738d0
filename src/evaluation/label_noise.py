"""Label noise, estimated by confident learning and from near-duplicates.

Confident learning (C. Northcutt, L. Jiang, I. Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels,
JAIR 2021) runs by cleanlab on out-of-fold predictions. A label is counted as wrong if the predicted probability of
another label exceeds that label's average self-confidence. `label_issues` says which labels are flagged. Hard but
correct posts are flagged too; the method cannot tell them apart. The weaker the classifiers, the more posts it flags.

`duplicate_agreement` estimates the noise without a classifier: labels of one content should be equal.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from cleanlab.count import estimate_joint
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from numpy.typing import NDArray

from src.core.errors import UserError
from src.core.estimates import DuplicateAgreement
from src.core.records import Prediction, labels_of
from src.evaluation.intervals import RESAMPLES, Array, cluster_bootstrap

# Limits of the expectation maximisation.
_MAX_STEPS = 1000
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class PooledPredictions:
    """The weighted mean of the probabilities that several systems give to the same posts."""

    ids: Sequence[str]
    labels: tuple[str, ...]
    # Indices into `labels`.
    labels_N: NDArray[np.int64]
    # By system; they sum to 1.
    weights: Mapping[str, float]
    # In the order of `labels`.
    probabilities_NK: NDArray[np.float64]


@dataclass(frozen=True)
class LabelIssue:
    """A post whose label is likely wrong."""

    id: str
    label: str
    # The most probable label.
    suggested: str
    # The normalised margin, (p(label) - max p(other) + 1) / 2: from 0, certainly wrong, to 1.
    quality: float
    # p(label).
    label_probability: float


def pool_predictions(tables: Mapping[str, Sequence[Prediction]]) -> PooledPredictions:
    """Pool the out-of-fold predictions of systems with the weights that maximise the likelihood of the labels.

    Equal weights would let an uninformative system dilute a good one. The weights are the proportions of a mixture,
    fitted by expectation maximisation (A. Dempster, N. Laird, D. Rubin, JRSS B 1977), which finds the global maximum.

    Args:
        tables: the predictions by the name of the system.

    Raises:
        UserError: the systems predicted different posts, or under different labels.
    """
    first, *others = ({row.id: row for row in table} for table in tables.values())
    for name, other in zip(list(tables)[1:], others, strict=True):
        if {row.id: row.actual for row in other.values()} != {row.id: row.actual for row in first.values()}:
            raise UserError(
                f"{name} and {next(iter(tables))} have predictions for different posts or labels: run `dvc repro`"
            )
    labels = labels_of(list(first.values()))
    labels_N = np.array([labels.index(row.actual) for row in first.values()])
    systems_SNK = np.array(
        [[[by_id[key].probabilities[label] for label in labels] for key in first] for by_id in (first, *others)]
    )
    weights_S = _likeliest_weights(systems_SNK[:, np.arange(len(labels_N)), labels_N])
    weights = dict(zip(tables, weights_S.tolist(), strict=True))
    return PooledPredictions(list(first), labels, labels_N, weights, np.tensordot(weights_S, systems_SNK, axes=1))


def label_issues(pooled: PooledPredictions) -> list[LabelIssue]:
    """List the posts whose label is likely wrong, the least plausible first.

    The estimated noise gives the number of posts for each pair of given label and true label (cleanlab's
    `prune_by_noise_rate`). The normalised margin selects and orders them.
    """
    labels_N = pooled.labels_N
    probabilities_NK = pooled.probabilities_NK
    indices = find_label_issues(labels_N, probabilities_NK, return_indices_ranked_by="normalized_margin", n_jobs=1)
    quality_N = get_label_quality_scores(labels_N, probabilities_NK, method="normalized_margin")
    return [
        LabelIssue(
            pooled.ids[index],
            pooled.labels[labels_N[index]],
            pooled.labels[int(probabilities_NK[index].argmax())],
            float(quality_N[index]),
            float(probabilities_NK[index, labels_N[index]]),
        )
        for index in indices.tolist()
    ]


def joint_distribution(pooled: PooledPredictions) -> NDArray[np.float64]:
    """Estimate joint_KK: the shares of posts by label (rows) and true label (columns)."""
    joint_KK: NDArray[np.float64] = estimate_joint(pooled.labels_N, pooled.probabilities_NK)
    return joint_KK


def _likeliest_weights(likelihood_SN: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights_S that maximise the mean log of the weighted likelihoods."""
    # A label that is absent from a fold's training posts has probability 0, whose logarithm is no number.
    likelihood_SN = np.maximum(likelihood_SN, np.finfo(float).tiny)
    weights_S = np.full(len(likelihood_SN), 1 / len(likelihood_SN))
    for _ in range(_MAX_STEPS):
        shares_SN = weights_S[:, None] * likelihood_SN
        previous_S = weights_S
        weights_S = (shares_SN / shares_SN.sum(0)).mean(1)
        if np.abs(weights_S - previous_S).max() < _TOLERANCE:
            break
    return weights_S


def duplicate_agreement(
    label_of: Mapping[str, str],
    group_of: Mapping[str, str],
    num_labels: int,
    seed: int,
    resamples: int = RESAMPLES,
) -> DuplicateAgreement | None:
    """Measure the agreement of labels among near-duplicates; None if no labelled post has one.

    Args:
        label_of: the label of each labelled post, by id.
        group_of: the group of near-duplicates of each of these posts, by id.
        num_labels: the number of labels that a post can have.
        seed: equal seeds give equal intervals.
        resamples: the number of bootstrap resamples.
    """
    labels: dict[str, list[str]] = defaultdict(list)
    for key, label in label_of.items():
        labels[group_of[key]].append(label)
    counts_GC = np.array([_counts(group) for group in labels.values() if len(group) > 1], dtype=float)
    if not len(counts_GC):
        return None
    pair_disagreement, disagreement, noise, true_label, majority = cluster_bootstrap(
        counts_GC, partial(_shares, num_labels=num_labels), seed, resamples
    ).intervals
    num_duplicates, _, pairs, disagreeing, num_majority = counts_GC.sum(0).tolist()
    return DuplicateAgreement(
        posts=len(label_of),
        near_duplicates=int(num_duplicates),
        groups=len(counts_GC),
        conflicting_groups=int(np.count_nonzero(counts_GC[:, 3])),
        pairs=int(pairs),
        disagreeing_pairs=int(disagreeing),
        pair_disagreement=pair_disagreement,
        disagreement=disagreement,
        noise_rate=noise,
        true_label_accuracy=true_label,
        majority_accuracy=majority,
        majority_accuracy_all=1 - (num_duplicates - num_majority) / len(label_of),
    )


def noise_rate(disagreement: Array, num_labels: int) -> Array:
    """Return the probability e that a label is wrong, from the probability that two labels of one content disagree.

    Model: each label is wrong with probability e, independently, and then any other label with equal probability.
    If labels disagree more than random labels would, e is (K - 1) / K of K labels.
    """
    random_disagreement = (num_labels - 1) / num_labels
    return random_disagreement * (1 - np.sqrt(np.maximum(0, 1 - disagreement / random_disagreement)))


def _counts(group: list[str]) -> tuple[float, ...]:
    """Count one group of labels.

    Returns:
        The posts, the expected number that disagree with a random other post, the pairs, the disagreeing pairs, and
        the posts of the commonest label.
    """
    tally = Counter(group)
    size = len(group)
    pairs = size * (size - 1) / 2
    disagreeing = pairs - sum(count * (count - 1) / 2 for count in tally.values())
    return size, size * disagreeing / pairs, pairs, disagreeing, max(tally.values())


def _shares(counts_xC: Array, num_labels: int) -> Array:
    """Compute the five shares of `DuplicateAgreement` that have intervals, in the order of its fields."""
    posts, disagree, pairs, disagreeing, majority = np.moveaxis(counts_xC, -1, 0)
    disagreement = disagree / posts
    noise = noise_rate(disagreement, num_labels)
    return np.stack([disagreeing / pairs, disagreement, noise, 1 - noise, majority / posts])
