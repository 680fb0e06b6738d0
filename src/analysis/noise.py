"""Which labels are likely wrong, by confident learning on what classifiers say of posts that they have not seen.

C. Northcutt, L. Jiang, I. Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 2021, by way of
cleanlab. A label counts as wrong where the classifiers are surer of another tone than they are, on average, of the
posts that carry that tone. So does, with no way to tell, that of a post which is only hard: the weaker the classifiers,
the more is taken for noise. `src.analysis.twins` estimates the same without a classifier.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cleanlab.count import estimate_joint
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from numpy.typing import NDArray

from src.core.errors import Refusal
from src.core.labels import TONES
from src.core.records import Prediction

_STEPS = 1000
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Pooled:
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
class Suspect:
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


def pool(tables: Mapping[str, Sequence[Prediction]]) -> Pooled:
    """Pool the out-of-fold predictions of systems, by name, with the weights under which the labels are likeliest.

    With equal weights a system that knows nothing drowns one that does; these leave it out. They are the proportions of
    a mixture, found by expectation maximisation (A. Dempster, N. Laird, D. Rubin, JRSS B 1977), and the best there are.

    Raises:
        Refusal: the systems did not judge the same posts, or not under the same labels.
    """
    first, *others = ({row.id: row for row in table} for table in tables.values())
    for name, other in zip(list(tables)[1:], others, strict=True):
        if {row.id: row.actual for row in other.values()} != {row.id: row.actual for row in first.values()}:
            raise Refusal(f"{name} and {next(iter(tables))} judged other posts or labels: run `dvc repro` on both")
    labels_N = np.array([TONES.index(row.actual) for row in first.values()])
    systems_SNK = np.array(
        [[[getattr(each[key], tone) for tone in TONES] for key in first] for each in (first, *others)]
    )
    weights_S = _likeliest_weights(systems_SNK[:, np.arange(len(labels_N)), labels_N])
    weights = dict(zip(tables, weights_S.tolist(), strict=True))
    return Pooled(list(first), labels_N, weights, np.tensordot(weights_S, systems_SNK, axes=1))


def suspects(pooled: Pooled) -> list[Suspect]:
    """The posts whose label is likely wrong, the least plausible first.

    How many, of each label and for each other tone, the estimated noise says (cleanlab's `prune_by_noise_rate`); which,
    and in what order, the normalised margin.
    """
    labels_N, probabilities_NK = pooled.labels_N, pooled.probabilities_NK
    places = find_label_issues(labels_N, probabilities_NK, return_indices_ranked_by="normalized_margin", n_jobs=1)
    quality_N = get_label_quality_scores(labels_N, probabilities_NK, method="normalized_margin")
    return [
        Suspect(
            pooled.ids[place],
            TONES[labels_N[place]],
            TONES[int(probabilities_NK[place].argmax())],
            float(quality_N[place]),
            float(probabilities_NK[place, labels_N[place]]),
        )
        for place in places.tolist()
    ]


def joint(pooled: Pooled) -> NDArray[np.float64]:
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
