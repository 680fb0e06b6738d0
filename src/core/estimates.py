"""Records of estimates: what src/evaluation/ computes, stages write as JSON, and the report reads.

All shares lie between 0 and 1. Intervals are 95% intervals.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from src.core.records import Interval

VerdictAnswer = Literal["yes", "no", "cannot tell"]


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a score over seeds or folds."""

    mean: float
    # With n - 1 in the denominator; None for one value.
    sd: float | None
    # Number of values.
    n: int
    # The 95% interval of the mean by Student's t (Gosset, Biometrika 1908). Both ends are None for one value and for
    # values that are all equal: there is no spread to judge by.
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Comparison:
    """A first system against a second on the same posts. Differences are first minus second, in shares."""

    # Number of posts that both systems predicted.
    posts: int
    # Number of posts that the one system predicts correctly and the other does not.
    only_first: int
    only_second: int
    # Differences with intervals by the paired bootstrap of groups, not corrected for the number of comparisons.
    accuracy: Interval
    macro_f1: Interval
    # Two-sided p-values of the difference in accuracy, not corrected.
    mcnemar_p: float
    bootstrap_p: float
    # Number of posts that would show a difference of this size (`evaluation.comparison.posts_needed`).
    posts_needed: int | None

    @property
    def p(self) -> float:
        """Return the p-value that decides: the larger of the two."""
        return max(self.mcnemar_p, self.bootstrap_p)


@dataclass(frozen=True)
class Verdict:
    """The answer to "is the first system better than the second"; "no" means that it is worse."""

    answer: VerdictAnswer
    # Corrected for all comparisons of the family by Holm's method.
    p_holm: float


@dataclass(frozen=True)
class DuplicateAgreement:
    """Agreement of labels within groups of near-duplicates. Intervals resample the groups."""

    # Number of labelled posts.
    posts: int
    # Number of labelled posts that have a near-duplicate among them.
    near_duplicates: int
    # Number of groups of such posts, and of groups that carry more than one label.
    groups: int
    conflicting_groups: int
    # Number of pairs of posts of one group, and of pairs with two labels.
    pairs: int
    disagreeing_pairs: int
    # Share of pairs that disagree. A group of n posts has n(n - 1)/2 pairs, so large groups dominate.
    pair_disagreement: Interval
    # Probability that a post disagrees with a random other post of its group. Every post counts once.
    disagreement: Interval
    # Probability that a label is wrong, derived from `disagreement` (`evaluation.label_noise.noise_rate`).
    noise_rate: Interval
    # 1 - noise_rate: the accuracy on these labels of a classifier that knows the true label.
    true_label_accuracy: Interval
    # Highest accuracy on these posts of a classifier that gives near-duplicates the same label.
    majority_accuracy: Interval
    # The same on all posts, if all others are predicted correctly.
    majority_accuracy_all: float


@dataclass(frozen=True)
class AblationResult:
    """Scores under one ablation, or with both halves of the post. Intervals are keyed by the name of the score."""

    # On all test posts.
    figures: Mapping[str, Interval]
    # On posts without a near-duplicate in another part; empty if there are none.
    leak_free: Mapping[str, Interval]
    # Change from both halves to this ablation on all test posts; None for both halves themselves.
    change: Comparison | None = None
    # Whether the ablation is better than both halves, corrected for all ablations; None for both halves.
    verdict: Verdict | None = None


@dataclass(frozen=True)
class LabelAdherence:
    """Shares of predictions that equal the text's label, the image's label or neither, on posts where the two differ.

    Intervals are Wilson's (E. B. Wilson, JASA 1927) and take posts as independent.
    """

    # Number of posts.
    n: int
    text: Interval
    image: Interval
    neither: Interval
    # The same three shares if predictions were assigned to posts at random: the baseline of a model that ignores both.
    expected: Mapping[str, float]


@dataclass(frozen=True)
class ShuffledImages:
    """Predictions on posts that got the image of another post."""

    # Share of posts whose new image comes from a post with the same label.
    same_label: float
    # On the other posts, whose halves have two labels: `text` is the caption's own, `image` that of the image's post.
    # None if there are no such posts.
    other_label: LabelAdherence | None


@dataclass(frozen=True)
class HashtagEffect:
    """Change of scores when hashtags are removed from captions."""

    # Number of posts with hashtags.
    n: int
    # Number of posts whose captions have no other words.
    emptied: int
    # From with to without, on the posts with hashtags; None if there are none.
    change: Comparison | None


@dataclass(frozen=True)
class AgreementAccuracy:
    """Accuracy on posts whose two labels all agree, or all disagree."""

    # Number of posts.
    n: int
    # By ablation.
    accuracy: Mapping[str, Interval]


@dataclass(frozen=True)
class Disagreement:
    """Predictions on posts whose text and image have different labels.

    Mappings are keyed by what is shown: both halves, text or image. They are empty without posts.
    """

    # Number of posts.
    posts: int
    # On all of them.
    follows: Mapping[str, LabelAdherence]
    # On those without a near-duplicate in train or val.
    leak_free: Mapping[str, LabelAdherence]
    # On those with one neutral label (1,919 of MVSA-Single).
    neutral: Mapping[str, LabelAdherence]
    # On those with one positive and one negative label (358 of MVSA-Single).
    opposite: Mapping[str, LabelAdherence]
    # For each pair of labels, text first, as in "positive, neutral".
    by_pair: Mapping[str, Mapping[str, LabelAdherence]]


@dataclass(frozen=True)
class SimilarityQuartile:
    """Accuracy on the posts between two cosines, both ends included."""

    low: float
    high: float
    # Number of posts.
    n: int
    accuracy: Interval


@dataclass(frozen=True)
class SimilarityCorrelation:
    """Correlation of image-text similarity with correct predictions.

    Correlations are None if all cosines are equal, or if predictions are all correct or all wrong.
    """

    # Number of posts that have both a cosine and a prediction.
    n: int
    # Mean cosine.
    mean: float
    # Pearson's correlation of the cosine with correct (1) or wrong (0), from -1 to 1.
    point_biserial: Interval | None
    # Spearman's rank correlation, which outliers do not dominate.
    spearman: float | None
    # From the least aligned posts to the most aligned; fewer than four quartiles for fewer than four posts.
    quartiles: tuple[SimilarityQuartile, ...]
