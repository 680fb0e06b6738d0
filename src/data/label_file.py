"""Reads `labelResultAll.txt`: a row for each post, and in it a column of `text,image` for each annotator.

MVSA-Single has one annotator, MVSA-Multiple three, whose majority makes the label of the text and that of the image.
Sources: T. Niu et al., Sentiment Analysis on Multi-view Social Data, MMM 2016; N. Xu, W. Mao, MultiSentiNet, CIKM 2017.
"""

from dataclasses import dataclass
from pathlib import Path

from src.core.errors import Refusal
from src.core.labels import TONES, majority

LABEL_FILE = "labelResultAll.txt"
_COLUMN = "text,image"

Pair = tuple[str, str]


@dataclass(frozen=True)
class Labels:
    """What a label file says.

    Attributes:
        num_annotators: of each post.
        pairs: by id, the label that most annotators gave to the text and the one that most gave to the image.
        undecided: by id, of every other post, why it has no such labels.
    """

    num_annotators: int
    pairs: dict[str, Pair]
    undecided: dict[str, str]


def header(num_annotators: int) -> str:
    """The first line of the file."""
    return "\t".join(["ID", *[_COLUMN] * num_annotators])


def read_labels(path: Path) -> Labels:
    """Read the labels of all posts, of as many annotators as the header has columns for.

    Raises:
        Refusal: the header or a row is malformed; the message has the file, the line, what is there and what should be.
    """
    first, *rows = path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
    num_annotators = first.rstrip().count("\t")
    if not num_annotators or first.rstrip() != header(num_annotators):
        raise _bad_row(path, 1, first, f"the header {header(1)!r}, with a column for each annotator")
    labels = Labels(num_annotators, {}, {})
    for number, row in enumerate(rows, start=2):
        if not row.strip():
            continue
        key, columns = _parse_row(path, number, row, num_annotators)
        if key in labels.pairs or key in labels.undecided:
            raise _bad_row(path, number, row, "each ID once")
        _decide(labels, key, columns)
    return labels


def _decide(labels: Labels, key: str, columns: list[list[str]]) -> None:
    text_label, image_label = (majority(given) for given in zip(*columns, strict=True))
    if text_label and image_label:
        labels.pairs[key] = (text_label, image_label)
    else:
        halves = {"the text": text_label, "the image": image_label}
        labels.undecided[key] = f"no majority for {' and '.join(half for half, label in halves.items() if not label)}"


def _parse_row(path: Path, number: int, row: str, num_annotators: int) -> tuple[str, list[list[str]]]:
    key, *columns = row.rstrip().split("\t")
    pairs = [column.split(",") for column in columns]
    if not key or len(pairs) != num_annotators or any(len(pair) != 2 or not set(pair) <= set(TONES) for pair in pairs):
        columns_expected = f"<TAB>{_COLUMN}" * num_annotators
        raise _bad_row(path, number, row, f"ID{columns_expected}, each label one of {', '.join(TONES)}")
    return key, pairs


def _bad_row(path: Path, number: int, row: str, expected: str) -> Refusal:
    return Refusal(f"{path}, line {number}: found {row.rstrip()!r}, expected {expected}")
