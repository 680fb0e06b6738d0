"""What near-duplicates with labels of their own say of the labels: how often one is wrong, and how right one can be.

The model behind the noise rate: twins share one true tone, and each label is by itself wrong with probability e, any
of the K - 1 other tones being as likely. Two then disagree with probability d = 2e - e² K/(K - 1), so that
e = (K - 1)/K (1 - √(1 - d K/(K - 1))). Where annotators err alike, or twins differ in what they show, it is off.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from src.analysis.intervals import RESAMPLES, Array, cluster_bootstrap
from src.core.estimates import Interval
from src.core.labels import TONES


@dataclass(frozen=True)
class Twins:
    """What the twins among labelled posts, those that have a near-duplicate among them, say. Intervals draw groups.

    Attributes:
        posts: all that are labelled.
        twins, groups, conflicting_groups: twins, the groups they are in, and those of them with more than one label.
        pairs, disagreeing_pairs: pairs of twins of one group, and those with two labels.
        pair_disagreement: the share of pairs that disagree; a group of n posts has n(n - 1)/2, so that large ones rule.
        disagreement: how likely a twin disagrees with another of its group drawn by lot, every twin counted once.
        noise_rate: how likely a label is wrong, by the model above, from `disagreement`.
        true_tone_accuracy: 1 - `noise_rate`, what a classifier that knows the true tone would score on such labels.
        majority_accuracy: the most that a classifier which gives twins the same tone can score on the twins.
        majority_accuracy_all: the same on all posts, if it is right on all others.
    """

    posts: int
    twins: int
    groups: int
    conflicting_groups: int
    pairs: int
    disagreeing_pairs: int
    pair_disagreement: Interval
    disagreement: Interval
    noise_rate: Interval
    true_tone_accuracy: Interval
    majority_accuracy: Interval
    majority_accuracy_all: float


def twins(
    label_of: Mapping[str, str], group_of: Mapping[str, str], seed: int, resamples: int = RESAMPLES
) -> Twins | None:
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
    return Twins(
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
    """The five intervals of `Twins`, in their order."""
    posts, disagree, pairs, disagreeing, majority = np.moveaxis(counts_xC, -1, 0)
    disagreement = disagree / posts
    noise = noise_rate(disagreement)
    return np.stack([disagreeing / pairs, disagreement, noise, 1 - noise, majority / posts])
