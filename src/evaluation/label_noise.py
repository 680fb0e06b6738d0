"""Which labels are likely wrong, by confident learning on what classifiers say of posts that they have not seen.

C. Northcutt, L. Jiang, I. Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 2021, by way of
cleanlab. A label counts as wrong where the classifiers are surer of another tone than they are, on average, of the
posts that carry that tone. So does, with no way to tell, that of a post which is only hard: the weaker the classifiers,
the more is taken for noise. `src.evaluation.label_noise` estimates the same without a classifier.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cleanlab.count import estimate_joint
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from numpy.typing import NDArray

from src.core.errors import UserError
from src.core.estimates import DuplicateAgreement
from src.core.labels import TONES
from src.core.records import Prediction
from src.evaluation.intervals import RESAMPLES, Array, cluster_bootstrap

_STEPS = 1000


_TOLERANCE = 1e-9


@dataclass(frozen=True)
class PooledPredictions:
    """What several systems say of the same posts, as one: a weighted mean of their probabilities.

    Attributes:
        ids: the posts.
        labels_N: their labels, as numbers into `TONES`.
        weights: of each system; they sum to 1.
        probabilities_NK: the mean, in the order of `TONES`.
    """

    ids: Sequence[str]
    labels_N: NDArray[np.int64]
    weights: Mapping[str, float]
    probabilities_NK: NDArray[np.float64]


@dataclass(frozen=True)
class LabelIssue:
    """A post whose label is likely wrong.

    Attributes:
        id, label: of the post.
        suggested: the tone that is likeliest instead.
        quality: the normalised margin, (p(label) - max p(other) + 1) / 2: from 0, surely wrong, to 1.
        label_probability: p(label).
    """

    id: str
    label: str
    suggested: str
    quality: float
    label_probability: float


def pool_predictions(tables: Mapping[str, Sequence[Prediction]]) -> PooledPredictions:
    """Pool the out-of-fold predictions of systems, by name, with the weights under which the labels are likeliest.

    With equal weights a system that knows nothing drowns one that does; these leave it out. They are the proportions of
    a mixture, found by expectation maximisation (A. Dempster, N. Laird, D. Rubin, JRSS B 1977), and the best there are.

    Raises:
        UserError: the systems did not judge the same posts, or not under the same labels.
    """
    first, *others = ({row.id: row for row in table} for table in tables.values())
    for name, other in zip(list(tables)[1:], others, strict=True):
        if {row.id: row.actual for row in other.values()} != {row.id: row.actual for row in first.values()}:
            raise UserError(f"{name} and {next(iter(tables))} judged other posts or labels: run `dvc repro` on both")
    labels_N = np.array([TONES.index(row.actual) for row in first.values()])
    systems_SNK = np.array(
        [[[getattr(each[key], tone) for tone in TONES] for key in first] for each in (first, *others)]
    )
    weights_S = _likeliest_weights(systems_SNK[:, np.arange(len(labels_N)), labels_N])
    weights = dict(zip(tables, weights_S.tolist(), strict=True))
    return PooledPredictions(list(first), labels_N, weights, np.tensordot(weights_S, systems_SNK, axes=1))


def label_issues(pooled: PooledPredictions) -> list[LabelIssue]:
    """The posts whose label is likely wrong, the least plausible first.

    How many, of each label and for each other tone, the estimated noise says (cleanlab's `prune_by_noise_rate`); which,
    and in what order, the normalised margin.
    """
    labels_N, probabilities_NK = pooled.labels_N, pooled.probabilities_NK
    places = find_label_issues(labels_N, probabilities_NK, return_indices_ranked_by="normalized_margin", n_jobs=1)
    quality_N = get_label_quality_scores(labels_N, probabilities_NK, method="normalized_margin")
    return [
        LabelIssue(
            pooled.ids[place],
            TONES[labels_N[place]],
            TONES[int(probabilities_NK[place].argmax())],
            float(quality_N[place]),
            float(probabilities_NK[place, labels_N[place]]),
        )
        for place in places.tolist()
    ]


def joint_distribution(pooled: PooledPredictions) -> NDArray[np.float64]:
    """joint_KK, the estimated shares of posts by label (rows) and true tone: off the diagonal is what is wrong."""
    found: NDArray[np.float64] = estimate_joint(pooled.labels_N, pooled.probabilities_NK)
    return found


def _likeliest_weights(likelihood_SN: NDArray[np.float64]) -> NDArray[np.float64]:
    """weights_S that make the mean log of the weighted likelihoods as large as can be."""
    # Some likelihood for all: a tone that a fold has never seen has 0.
    likelihood_SN = np.maximum(likelihood_SN, np.finfo(float).tiny)
    weights_S = np.full(len(likelihood_SN), 1 / len(likelihood_SN))
    for _ in range(_STEPS):
        shares_SN = weights_S[:, None] * likelihood_SN
        before_S, weights_S = weights_S, (shares_SN / shares_SN.sum(0)).mean(1)
        if np.abs(weights_S - before_S).max() < _TOLERANCE:
            break
    return weights_S


def duplicate_agreement(
    label_of: Mapping[str, str], group_of: Mapping[str, str], seed: int, resamples: int = RESAMPLES
) -> DuplicateAgreement | None:
    """What twins say of the labels; None where no labelled post has a twin.

    Args:
        label_of: the label of each labelled post, by id.
        group_of: the group of near-duplicates of each of them, by id.
        seed: of the bootstrap.
        resamples: how often groups are drawn.
    """
    labels: dict[str, list[str]] = defaultdict(list)
    for key, label in label_of.items():
        labels[group_of[key]].append(label)
    counts_GC = np.array([_counts(group) for group in labels.values() if len(group) > 1], dtype=float)
    if not len(counts_GC):
        return None
    pair_disagreement, disagreement, wrong, right, majority = cluster_bootstrap(
        counts_GC, _figures, seed, resamples
    ).intervals
    num_twins, _, pairs, disagreeing, num_majority = counts_GC.sum(0).tolist()
    return DuplicateAgreement(
        posts=len(label_of),
        twins=int(num_twins),
        groups=len(counts_GC),
        conflicting_groups=int(np.count_nonzero(counts_GC[:, 3])),
        pairs=int(pairs),
        disagreeing_pairs=int(disagreeing),
        pair_disagreement=pair_disagreement,
        disagreement=disagreement,
        noise_rate=wrong,
        true_tone_accuracy=right,
        majority_accuracy=majority,
        majority_accuracy_all=1 - (num_twins - num_majority) / len(label_of),
    )


def noise_rate(disagreement: Array) -> Array:
    """The e of the model above, a share; of twins that disagree more than labels drawn by lot it is (K - 1)/K."""
    most = (len(TONES) - 1) / len(TONES)
    return most * (1 - np.sqrt(np.maximum(0, 1 - disagreement / most)))


def _counts(group: list[str]) -> tuple[float, ...]:
    """Of a group: posts, how many disagree with one drawn by lot, pairs, disagreeing pairs, posts of the main label."""
    tally, size = Counter(group), len(group)
    pairs = size * (size - 1) / 2
    disagreeing = pairs - sum(count * (count - 1) / 2 for count in tally.values())
    return size, size * disagreeing / pairs, pairs, disagreeing, max(tally.values())


def _figures(counts_xC: Array) -> Array:
    """The five intervals of `DuplicateAgreement`, in their order."""
    posts, disagree, pairs, disagreeing, majority = np.moveaxis(counts_xC, -1, 0)
    disagreement = disagree / posts
    noise = noise_rate(disagreement)
    return np.stack([disagreeing / pairs, disagreement, noise, 1 - noise, majority / posts])
