"""The three tones and the rules that make one label of an annotator's two.

Source of both protocols: T. Niu et al., Sentiment Analysis on Multi-view Social Data, MMM 2016 (section 3),
and the agreement subset used by MMBT, QMF and the study reproduced here.
"""

NEGATIVE, NEUTRAL, POSITIVE = TONES = ("negative", "neutral", "positive")
PROTOCOLS = ("agreement", "standard")


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
