"""The records that pass between stages, and their files."""

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from src.core.errors import Refusal, UsageRefusal
from src.core.labels import TONES
from src.core.settings import FitParams

PARTS = ("train", "val", "test")
# Under this name files, runs and registered versions hold an adapter's digest (src/learning/trained.py).
ADAPTER_DIGEST = "adapter_digest"
# Decimals of a number in a file: later ones may differ where sums are added in another order.
DECIMALS = 6
# What is written in full: settings, which were chosen and not measured, and p-values, whose first digits may come late.
_P_VALUES = {"p", "p_holm", "mcnemar_p", "bootstrap_p"}
_IN_FULL = {field.name for field in fields(FitParams) if field.type is float} | _P_VALUES


@dataclass(frozen=True)
class Post:
    """One post: what was posted, how its text and image were labelled, and the label that the protocol makes of it.

    `image` is a path relative to the repository's root; `label` is empty where the protocol leaves the post out;
    `digest` is the SHA-256 of the image's bytes and the caption, so it changes when the content does.
    """

    id: str
    image: str
    caption: str
    text_label: str
    image_label: str
    label: str
    digest: str


@dataclass(frozen=True)
class Fingerprint:
    """What tells a post's image from others: the SHA-256 of its bytes, and a perceptual hash of what it shows.

    Both are hexadecimal. Images that look alike have hashes of nearly the same bits; one that shows next to nothing has
    none (`src.data.images.perceptual_hash`).
    """

    id: str
    image_digest: str
    image_hash: str


@dataclass(frozen=True)
class Prediction:
    """What a model said of one labelled post; the probabilities are in the order of `TONES` and sum to 1."""

    id: str
    actual: str
    predicted: str
    negative: float
    neutral: float
    positive: float


@dataclass(frozen=True)
class Scores:
    """How good predictions are on one part. All are shares between 0 and 1; `confusion` counts posts, rows actual.

    `per_class` maps a tone to its precision, recall, f1 and support (a count).
    """

    accuracy: float
    macro_f1: float
    weighted_f1: float
    per_class: Mapping[str, Mapping[str, float]]
    confusion: Sequence[Sequence[int]]

    def headline(self) -> dict[str, float]:
        """The three figures that every table shows."""
        return {"accuracy": self.accuracy, "macro_f1": self.macro_f1, "weighted_f1": self.weighted_f1}

    def summary(self) -> dict[str, float]:
        """The headline and the F1 of each tone."""
        return {**self.headline(), **{f"f1_{tone}": row["f1"] for tone, row in self.per_class.items()}}

    def flat(self) -> dict[str, float]:
        """All figures but the confusion matrix under one name each, such as `f1_neutral`."""
        details = {f"{name}_{tone}": value for tone, row in self.per_class.items() for name, value in row.items()}
        return {**self.headline(), **details}


def content_digest(image: bytes, caption: str) -> str:
    """SHA-256 of a post's content, as hexadecimal."""
    return hashlib.sha256(hashlib.sha256(image).digest() + caption.encode("utf-8")).hexdigest()


def numeric(key: str) -> tuple[bool, int, str]:
    """Sorts ids as numbers; those that are none come last."""
    return (not key.isdecimal(), int(key) if key.isdecimal() else 0, key)


def digest_of(rows: Iterable[Sequence[str]]) -> str:
    """A short digest (16 hexadecimal digits) of rows of strings, whatever their order."""
    lines = sorted(json.dumps(list(row)) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def data_digest(posts: Iterable[Post]) -> str:
    """A short digest of the posts' contents and labels."""
    return digest_of((post.id, post.digest, post.label) for post in posts)


def write_text(path: Path, text: str) -> None:
    """Write a text, as UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or none of it: a killed process leaves the old file in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(_temporary(path))
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(path: Path) -> None:
    """Try whether `write_bytes` could write a file, and leave nothing behind; for before work that takes long.

    Raises:
        UsageRefusal: the path is a folder or a device.
        Refusal: its folder, or the nearest that is there, cannot be written to.
    """
    try:
        if path.exists() and not path.is_file():
            raise UsageRefusal(f"{path} is {'a folder' if path.is_dir() else 'no file'}: name a file to be written")
        probe = next(folder for folder in path.parents if folder.exists()) / _temporary(path)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise Refusal(f"{path} cannot be written: {error.strerror}") from error


def _temporary(path: Path) -> str:
    return f".{path.name}.{os.getpid()}"


def rounded(value: Any) -> Any:
    """Return a value with the numbers in it rounded to `DECIMALS`, no zero negative; less those named in `_IN_FULL`."""
    if isinstance(value, float):
        return round(float(value), DECIMALS) + 0.0
    if isinstance(value, Mapping):
        return {key: item if key in _IN_FULL else rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write JSON, indented, keys in the order given, numbers `rounded`."""
    write_text(path, json.dumps(rounded(content), indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON that an earlier stage wrote.

    Raises:
        Refusal: the file is missing.
    """
    return json.loads(_read(path))


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write rows as CSV with a header, numbers `rounded`; `columns` default to the first row's keys."""
    names = list(columns if columns is not None else rows[0])
    lines = _Lines()
    writer = csv.DictWriter(lines, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rounded(rows))
    write_text(path, "".join(lines))


def read_table(path: Path) -> list[dict[str, str]]:
    """Read CSV that an earlier stage wrote.

    Raises:
        Refusal: the file is missing.
    """
    _check(path)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_posts(path: Path, posts: Sequence[Post]) -> None:
    """Write the table of posts."""
    write_table(path, [asdict(post) for post in posts], [field.name for field in fields(Post)])


def read_posts(path: Path) -> list[Post]:
    """Read the table of posts that `prepare` wrote."""
    return [Post(**row) for row in read_table(path)]


def write_fingerprints(path: Path, fingerprints: Sequence[Fingerprint]) -> None:
    """Write the table of fingerprints."""
    write_table(path, [asdict(each) for each in fingerprints], [field.name for field in fields(Fingerprint)])


def read_fingerprints(path: Path) -> list[Fingerprint]:
    """Read the fingerprints of all posts, as `prepare` wrote them."""
    return [Fingerprint(**row) for row in read_table(path)]


def write_split(path: Path, part_of: Mapping[str, str]) -> None:
    """Write which part of `PARTS` each post belongs to."""
    write_table(path, [{"id": key, "part": part} for key, part in part_of.items()], ["id", "part"])


def read_split(path: Path) -> dict[str, str]:
    """Read which part of `PARTS` each post belongs to, by id, as `split` wrote it."""
    return {row["id"]: row["part"] for row in read_table(path)}


def write_groups(path: Path, group_of: Mapping[str, str]) -> None:
    """Write which group of near-duplicates each post belongs to; a group has the name of its first post."""
    write_table(path, [{"id": key, "group": group} for key, group in group_of.items()], ["id", "group"])


def read_groups(path: Path) -> dict[str, str]:
    """Read which group of near-duplicates each post belongs to, by id, as `split` wrote it."""
    return {row["id"]: row["group"] for row in read_table(path)}


def leak_free(part_of: Mapping[str, str], group_of: Mapping[str, str]) -> set[str]:
    """The ids of the test posts that have no near-duplicate in another part: what no training or choice has seen."""
    seen = {group_of[key] for key, part in part_of.items() if part != "test"}
    return {key for key, part in part_of.items() if part == "test" and group_of[key] not in seen}


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write a table of predictions."""
    write_table(path, [asdict(prediction) for prediction in predictions], [field.name for field in fields(Prediction)])


def read_predictions(path: Path) -> list[Prediction]:
    """Read a table of predictions."""
    return [
        Prediction(row["id"], row["actual"], row["predicted"], *(float(row[tone]) for tone in TONES))
        for row in read_table(path)
    ]


class _Lines(list[str]):
    def write(self, line: str) -> None:
        self.append(line)


def _check(path: Path) -> None:
    if not path.is_file():
        raise Refusal(f"{path} is missing: run `dvc repro` first, which makes it")


def _read(path: Path) -> str:
    _check(path)
    return path.read_text(encoding="utf-8")
