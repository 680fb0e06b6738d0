"""Reader of `labelResultAll.txt`: a row for each post, with a column `text,image` for each annotator.

Harmless deviations are read and counted: letter case, spaces, and rows repeated with the same labels.

MVSA-Single has one annotator. MVSA-Multiple has three, and their majority gives the text label and the image label.
Sources: T. Niu et al., Sentiment Analysis on Multi-view Social Data, MMM 2016; N. Xu, W. Mao, MultiSentiNet, CIKM 2017.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from src.core.errors import UserError
from src.core.labels import majority
from src.data import encodings
from src.data.reading import Pair

LABEL_FILE = "labelResultAll.txt"
HEADER = "header in another spelling"
RESPELT = "label rows in another spelling"
REPEATED = "label rows repeated"
_COLUMN = "text,image"

Columns = list[list[str]]


@dataclass(frozen=True)
class Labels:
    """The content of a label file."""

    # The number of annotators of each post.
    num_annotators: int
    # Text label and image label by id, each given by a majority of annotators.
    pairs: dict[str, Pair]
    # For each other post, the reason why it has no such labels.
    undecided: dict[str, str]
    # Numbers of deviations from the layout, by kind.
    variants: Counter[str] = field(default_factory=Counter)


def header(num_annotators: int) -> str:
    """Return the first line of the file."""
    return "\t".join(["ID", *[_COLUMN] * num_annotators])


def read_labels(path: Path) -> Labels:
    """Read the labels of all posts. The header's columns give the number of annotators.

    Raises:
        UserError: the header or a row is malformed, or two rows of a post disagree. The message names file, line, the
            text there and the expected text.
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
    text_label, image_label = (majority(labels_given) for labels_given in zip(*columns, strict=True))
    if text_label and image_label:
        labels.pairs[key] = (text_label, image_label)
    else:
        halves = {"the text": text_label, "the image": image_label}
        labels.undecided[key] = f"no majority for {' and '.join(half for half, label in halves.items() if not label)}"


def _parse_row(path: Path, number: int, row: str, num_annotators: int) -> tuple[str, Columns]:
    key, *columns = row.rstrip().split("\t")
    key = key.strip()
    pairs = [_plain(column).split(",") for column in columns]
    if not key or len(pairs) != num_annotators or any(len(pair) != 2 or not all(pair) for pair in pairs):
        columns_expected = f"<TAB>{_COLUMN}" * num_annotators
        raise _bad_row(path, number, row, f"ID{columns_expected}")
    return key, pairs


def _plain(text: str) -> str:
    """Return a row in lower case, without spaces around columns and labels."""
    columns = (column.split(",") for column in text.rstrip().split("\t"))
    return "\t".join(",".join(half.strip().lower() for half in halves) for halves in columns)


def _bad_row(path: Path, number: int, row: str, expected: str) -> UserError:
    return UserError(f"{path}, line {number}: found {row.rstrip()!r}, expected {expected}")
