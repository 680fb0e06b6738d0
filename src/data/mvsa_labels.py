"""Reads `labelResultAll.txt`: a row for each post, and in it a column of `text,image` for each annotator.

What varies without harm is read and counted: letter case, spaces, rows repeated with the same labels.

MVSA-Single has one annotator, MVSA-Multiple three, whose majority makes the label of the text and that of the image.
Sources: T. Niu et al., Sentiment Analysis on Multi-view Social Data, MMM 2016; N. Xu, W. Mao, MultiSentiNet, CIKM 2017.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from src.core.errors import UserError
from src.core.labels import TONES, majority
from src.data import encodings

LABEL_FILE = "labelResultAll.txt"
HEADER, RESPELT, REPEATED = "header in another spelling", "label rows in another spelling", "label rows repeated"
_COLUMN = "text,image"

Pair = tuple[str, str]
Columns = list[list[str]]


@dataclass(frozen=True)
class Labels:
    """What a label file says.

    Attributes:
        num_annotators: of each post.
        pairs: by id, the label that most annotators gave to the text and the one that most gave to the image.
        undecided: by id, of every other post, why it has no such labels.
        variants: how often what was read differs from the layout, by what differs.
    """

    num_annotators: int
    pairs: dict[str, Pair]
    undecided: dict[str, str]
    variants: Counter[str] = field(default_factory=Counter)


def header(num_annotators: int) -> str:
    """The first line of the file."""
    return "\t".join(["ID", *[_COLUMN] * num_annotators])


def read_labels(path: Path) -> Labels:
    """Read the labels of all posts, of as many annotators as the header has columns for.

    Raises:
        UserError: the header or a row is malformed, or two rows of one post disagree; the message has the file, line,
            what is there and what should be.
    """
    (first, *rows), encoding = encodings.lines(path.read_bytes())
    num_annotators = first.rstrip().count("\t")
    if not num_annotators or _plain(first) != _plain(header(num_annotators)):
        raise _bad_row(path, 1, first, f"the header {header(1)!r}, with a column for each annotator")
    labels = Labels(num_annotators, {}, {})
    labels.variants[HEADER] = int(first.rstrip() != header(num_annotators))
    if encoding != encodings.UTF_8:
        labels.variants[f"{LABEL_FILE} in {encoding}"] = 1
    line_of: dict[str, int] = {}
    columns_of: dict[str, Columns] = {}
    for number, row in enumerate(rows, start=2):
        if not row.strip():
            continue
        key, columns = _parse_row(path, number, row, num_annotators)
        labels.variants[RESPELT] += row.rstrip() != "\t".join([key, *map(",".join, columns)])
        if columns_of.setdefault(key, columns) != columns:
            raise _bad_row(path, number, row, f"the labels of {key} in line {line_of[key]}: remove one of the rows")
        labels.variants[REPEATED] += key in line_of
        line_of.setdefault(key, number)
    for key, columns in columns_of.items():
        _decide(labels, key, columns)
    return labels


def _decide(labels: Labels, key: str, columns: Columns) -> None:
    text_label, image_label = (majority(given) for given in zip(*columns, strict=True))
    if text_label and image_label:
        labels.pairs[key] = (text_label, image_label)
    else:
        halves = {"the text": text_label, "the image": image_label}
        labels.undecided[key] = f"no majority for {' and '.join(half for half, label in halves.items() if not label)}"


def _parse_row(path: Path, number: int, row: str, num_annotators: int) -> tuple[str, Columns]:
    key, *columns = row.rstrip().split("\t")
    key, pairs = key.strip(), [_plain(column).split(",") for column in columns]
    if not key or len(pairs) != num_annotators or any(len(pair) != 2 or not set(pair) <= set(TONES) for pair in pairs):
        columns_expected = f"<TAB>{_COLUMN}" * num_annotators
        raise _bad_row(path, number, row, f"ID{columns_expected}, each label one of {', '.join(TONES)}")
    return key, pairs


def _plain(text: str) -> str:
    """The text in lower case, without the spaces around its columns and their halves."""
    columns = (column.split(",") for column in text.rstrip().split("\t"))
    return "\t".join(",".join(half.strip().lower() for half in halves) for halves in columns)


def _bad_row(path: Path, number: int, row: str, expected: str) -> UserError:
    return UserError(f"{path}, line {number}: found {row.rstrip()!r}, expected {expected}")
