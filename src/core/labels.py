"""Labels of posts: the set that params.yaml names, and the rules that make one label of a post's several labels.

Source of both protocols: T. Niu et al., Sentiment Analysis on Multi-view Social Data, MMM 2016 (section 3),
and the agreement subset in MMBT, QMF and the paper.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from src.core.config_parser import require

NEGATIVE, NEUTRAL, POSITIVE = TONES = ("negative", "neutral", "positive")
PROTOCOLS = ("agreement", "standard")
# Columns that stand beside the labels' own in a table. A label of the same name would hide one of them.
RESERVED = {
    *("id", "actual", "predicted", "image", "text", "label", "missing", "problem", "fold"),
    *("confidence", "review"),
    *("group", "leak_free", "text_label", "image_label", "predicted_from_text", "predicted_from_image"),
}
# A label is a column, and a part of a metric's name in MLflow. The reader of a label file lowers all letters.
_NAME = re.compile(r"\w[\w -]*")
# A prompt is a template, and angle brackets mark special tokens.
_NOT_IN_A_PROMPT = set("{}<>\n")


@dataclass(frozen=True)
class Label:
    """A label that a post can have, and how a model is asked for it."""

    # A label that is given as a plain string has this field alone.
    SHORTHAND: ClassVar[str] = "name"

    name: str
    # The word that asks for the label and is the answer; empty if it is the name.
    word: str = ""
    # What the label means, for prompts; may be empty.
    description: str = ""

    def __post_init__(self) -> None:
        if not self.word:
            object.__setattr__(self, "word", self.name)
        named = _NAME.fullmatch(self.name) is not None and self.name == self.name.strip().lower()
        require(named, f"{self.name!r} is no name of a label: use lower-case letters, digits, spaces, - and _")
        require(self.name not in RESERVED, f"{self.name!r} cannot be a label: tables have a column of this name")
        words = (self.word, self.description)
        require(all(text == text.strip() for text in words), f"label {self.name}: a text begins or ends with a space")
        marks = sorted(_NOT_IN_A_PROMPT & set("".join(words)))
        require(not marks, f"label {self.name}: {marks[:1]} cannot stand in a prompt: leave it out")

    @property
    def option(self) -> str:
        """The label as one of the answers that a prompt offers."""
        return f"{self.word} ({self.description})" if self.description else self.word


# All labels that posts can have, in the order of logits and tables.
Labels = tuple[Label, ...]
TONE_LABELS: Labels = tuple(map(Label, TONES))


def require_distinct(labels: Labels) -> None:
    """Raise ValueError unless there are two labels or more, with different names and words."""
    require(len(labels) > 1, "labels must be two or more")
    for field in ("name", "word"):
        counts = Counter(getattr(label, field) for label in labels)
        doubled = [value for value, count in counts.items() if count > 1]
        require(not doubled, f"labels must not have one {field} twice: {', '.join(doubled)}")


def names_of(labels: Labels) -> tuple[str, ...]:
    """Return the names of labels."""
    return tuple(label.name for label in labels)


def listed(words: Sequence[str]) -> str:
    """Return words as a list in a sentence, such as "negative, neutral or positive"."""
    return f"{', '.join(words[:-1])} or {words[-1]}"


def are_tones(names: Sequence[str]) -> bool:
    """Return whether these labels are the three tones, which the paper and protocol `standard` are about."""
    return set(names) == set(TONES)


def protocols_of(names: Sequence[str]) -> tuple[str, ...]:
    """Return the protocols that are defined for these labels."""
    return PROTOCOLS if are_tones(names) else PROTOCOLS[:1]


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

    It is defined for the three tones alone. 4,511 posts of MVSA-Single have a label.
    """
    polar = {text_label, image_label} - {NEUTRAL}
    if len(polar) == 2:
        return None
    return polar.pop() if polar else NEUTRAL


def label_of(protocol: str, text_label: str, image_label: str) -> str | None:
    """Return the label of a post under a protocol of `PROTOCOLS`, or None if the post has none."""
    rule = {"agreement": agreement, "standard": standard}[protocol]
    return rule(text_label, image_label)
