"""The records that pass between stages, and their files."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from src.core.files import digest_of, read_table, write_table
from src.core.labels import TONES

PARTS = ("train", "val", "test")


# Under this name files, runs and registered versions hold an adapter's digest (src/core/outputs.py).
ADAPTER_DIGEST = "adapter_digest"


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
class DroppedPost:
    """A post that `prepare` leaves out, and the reason."""

    id: str
    reason: str


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


def numeric_id_key(key: str) -> tuple[bool, int, str]:
    """Sorts ids as numbers; those that are none come last."""
    return (not key.isdecimal(), int(key) if key.isdecimal() else 0, key)


def data_digest(posts: Iterable[Post]) -> str:
    """A short digest of the posts' contents and labels."""
    return digest_of((post.id, post.digest, post.label) for post in posts)


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


@dataclass(frozen=True)
class Interval:
    """A value and its 95% interval; `low` and `high` are None where all groups say the same: no spread to judge by."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Bin:
    """The posts whose confidence lies above `low` and not above `high`: how sure of them, and how often right.

    `confidence` (the mean) and `accuracy` are None where there is no post.
    """

    low: float
    high: float
    posts: int
    confidence: float | None
    accuracy: float | None
