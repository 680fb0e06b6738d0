"""The three tones and the rules that make one label of the many that a post was given.

Source of both protocols: T. Niu et al., Sentiment Analysis on Multi-view Social Data, MMM 2016 (section 3),
and the agreement subset used by MMBT, QMF and the study reproduced here.
"""

from collections import Counter
from collections.abc import Sequence

NEGATIVE, NEUTRAL, POSITIVE = TONES = ("negative", "neutral", "positive")
PROTOCOLS = ("agreement", "standard")


def majority(labels: Sequence[str]) -> str | None:
    """The label that more than half of the annotators gave, else None: two of MVSA-Multiple's three have to agree.

    Source: N. Xu, W. Mao, MultiSentiNet, CIKM 2017 (the README.md of github.com/xunan0812/MultiSentiNet, Data).
    """
    label, count = Counter(labels).most_common(1)[0]
    return label if 2 * count > len(labels) else None


def agreement(text_label: str, image_label: str) -> str | None:
    """The common label where text and image agree, else None (2,592 of MVSA-Single)."""
    return text_label if text_label == image_label else None


def standard(text_label: str, image_label: str) -> str | None:
    """The polar label where the other is neutral; None where they contradict (4,511 of MVSA-Single)."""
    polar = {text_label, image_label} - {NEUTRAL}
    if len(polar) == 2:
        return None
    return polar.pop() if polar else NEUTRAL


def label_of(protocol: str, text_label: str, image_label: str) -> str | None:
    """The label of a post under a protocol of `PROTOCOLS`, or None where the protocol leaves the post out."""
    rule = {"agreement": agreement, "standard": standard}[protocol]
    return rule(text_label, image_label)
