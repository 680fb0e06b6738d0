"""The three tones, and the rules that make one label of a post's several labels.

Source of both protocols: T. Niu et al., Sentiment Analysis on Multi-view Social Data, MMM 2016 (section 3),
and the agreement subset in MMBT, QMF and the paper.
"""

from collections import Counter
from collections.abc import Sequence

NEGATIVE, NEUTRAL, POSITIVE = TONES = ("negative", "neutral", "positive")
PROTOCOLS = ("agreement", "standard")


def majority(labels: Sequence[str]) -> str | None:
    """Return the label of more than half of the annotators, or None. In MVSA-Multiple two of three must agree.

    Source: N. Xu, W. Mao, MultiSentiNet, CIKM 2017 (the README.md of github.com/xunan0812/MultiSentiNet, Data).
    """
    label, count = Counter(labels).most_common(1)[0]
    return label if 2 * count > len(labels) else None


def agreement(text_label: str, image_label: str) -> str | None:
    """Return the common label of text and image, or None if they differ. 2,592 posts of MVSA-Single have one."""
    return text_label if text_label == image_label else None


def standard(text_label: str, image_label: str) -> str | None:
    """Return the polar label if the other is neutral, or None if both are polar and differ.

    4,511 posts of MVSA-Single have a label.
    """
    polar = {text_label, image_label} - {NEUTRAL}
    if len(polar) == 2:
        return None
    return polar.pop() if polar else NEUTRAL


def label_of(protocol: str, text_label: str, image_label: str) -> str | None:
    """Return the label of a post under a protocol of `PROTOCOLS`, or None if the post has none."""
    rule = {"agreement": agreement, "standard": standard}[protocol]
    return rule(text_label, image_label)
