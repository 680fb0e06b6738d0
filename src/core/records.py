"""Records that pass between stages, and the tables that hold them."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from src.core.files import digest_of, read_table, write_table

PARTS = ("train", "val", "test")
# The largest image that any command decodes, width times height.
MAX_PIXELS = 50_000_000


_PREDICTION_COLUMNS = ("id", "actual", "predicted")
# The name of an adapter's digest in files, runs and registered versions (src/core/outputs.py).
ADAPTER_DIGEST = "adapter_digest"
# The name of an ensemble's digest in runs and registered versions (src/pipeline/ensemble.py).
ENSEMBLE_DIGEST = "ensemble_digest"


@dataclass(frozen=True)
class Post:
    """An image and its caption, with labels."""

    id: str
    # Path of the image, relative to the repository's root.
    image: str
    caption: str
    text_label: str
    image_label: str
    # The label under the protocol of params.yaml; empty if the protocol leaves the post out.
    label: str
    # SHA-256 of the image's bytes and the caption (`content_digest`).
    digest: str
    # The part of the split that came with the posts; empty without one.
    part: str = ""
    # The group that came with the posts, which a grouped split keeps in one part; empty without one.
    group: str = ""


@dataclass(frozen=True)
class DroppedPost:
    """A post that `prepare` leaves out, and the reason."""

    id: str
    reason: str


@dataclass(frozen=True)
class Fingerprint:
    """Two hexadecimal digests of a post's image, by which near-duplicates are found."""

    id: str
    # SHA-256 of the file's bytes.
    image_digest: str
    # Perceptual hash: images that look alike differ in few bits. Empty for an image of nearly one colour.
    image_hash: str


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for a labelled post."""

    id: str
    actual: str
    predicted: str
    # By label, in the order of the labels; they sum to 1.
    probabilities: Mapping[str, float]

    @classmethod
    def of(cls, post: Post, labels: Sequence[str], probabilities: Sequence[float]) -> "Prediction":
        """Return the prediction of the most probable label, the first of equal ones."""
        predicted = labels[probabilities.index(max(probabilities))]
        return cls(post.id, post.label, predicted, dict(zip(labels, probabilities, strict=True)))

    @property
    def confidence(self) -> float:
        """Return the probability of the predicted label."""
        return self.probabilities[self.predicted]

    def cells(self) -> dict[str, str | float]:
        """Return the cells of a table's row, by column: a probability stands under its label."""
        return {"id": self.id, "actual": self.actual, "predicted": self.predicted, **self.probabilities}


@dataclass(frozen=True)
class Scores:
    """Scores of predictions on one part, as shares between 0 and 1."""

    accuracy: float
    macro_f1: float
    weighted_f1: float
    # Precision, recall, f1 and support (a number of posts) by label.
    per_class: Mapping[str, Mapping[str, float]]
    # Numbers of posts: a row for each actual label, a column for each predicted one.
    confusion: Sequence[Sequence[int]]

    def headline(self) -> dict[str, float]:
        """Return the three scores that every table shows."""
        return {"accuracy": self.accuracy, "macro_f1": self.macro_f1, "weighted_f1": self.weighted_f1}

    def summary(self) -> dict[str, float]:
        """Return the headline and the F1 of each label."""
        return {**self.headline(), **{f"f1_{label}": row["f1"] for label, row in self.per_class.items()}}


def content_digest(image: bytes, caption: str) -> str:
    """Return the SHA-256 of a post's image and caption, in hexadecimal."""
    return hashlib.sha256(hashlib.sha256(image).digest() + caption.encode("utf-8")).hexdigest()


def numeric_id_key(key: str) -> tuple[bool, int, str]:
    """Return a sort key that orders ids as numbers, with other ids last."""
    return (not key.isdecimal(), int(key) if key.isdecimal() else 0, key)


def data_digest(posts: Iterable[Post]) -> str:
    """Return a digest of the posts' contents and labels. The labels of the halves count where they differ."""
    return digest_of(
        (post.id, post.digest, post.label)
        if post.text_label == post.image_label
        else (post.id, post.digest, post.label, post.text_label, post.image_label)
        for post in posts
    )


def split_digest(part_of: Mapping[str, str], unimodal: Iterable[str]) -> str:
    """Return a digest of the part of each post, by id, and of the posts in no part that `unimodal_labels` trains on."""
    return digest_of([*part_of.items(), *((key, "unimodal") for key in unimodal)])


def write_posts(path: Path, posts: Sequence[Post]) -> None:
    """Write the table of posts."""
    write_table(path, [asdict(post) for post in posts], [field.name for field in fields(Post)])


def read_posts(path: Path) -> list[Post]:
    """Read the table of posts that `prepare` wrote."""
    return [Post(**row) for row in read_table(path)]


def write_fingerprints(path: Path, fingerprints: Sequence[Fingerprint]) -> None:
    """Write the table of fingerprints."""
    rows = [asdict(fingerprint) for fingerprint in fingerprints]
    write_table(path, rows, [field.name for field in fields(Fingerprint)])


def read_fingerprints(path: Path) -> list[Fingerprint]:
    """Read the table of fingerprints that `prepare` wrote."""
    return [Fingerprint(**row) for row in read_table(path)]


def write_split(path: Path, part_of: Mapping[str, str]) -> None:
    """Write the part of each post, by id."""
    write_table(path, [{"id": key, "part": part} for key, part in part_of.items()], ["id", "part"])


def read_split(path: Path) -> dict[str, str]:
    """Read the part of each post, by id, as `split` wrote it."""
    return {row["id"]: row["part"] for row in read_table(path)}


def write_groups(path: Path, group_of: Mapping[str, str]) -> None:
    """Write the group of near-duplicates of each post, by id. A group has the name of its first post."""
    write_table(path, [{"id": key, "group": group} for key, group in group_of.items()], ["id", "group"])


def read_groups(path: Path) -> dict[str, str]:
    """Read the group of near-duplicates of each post, by id, as `split` wrote it."""
    return {row["id"]: row["group"] for row in read_table(path)}


def write_unimodal(path: Path, posts: Iterable[Post]) -> None:
    """Write the ids of the posts in no part that `unimodal_labels` trains on."""
    write_table(path, [{"id": post.id} for post in posts], ["id"])


def read_unimodal(path: Path) -> set[str]:
    """Read the ids of the posts in no part that `unimodal_labels` trains on, as `split` wrote them."""
    return {row["id"] for row in read_table(path)}


def leak_free(part_of: Mapping[str, str], group_of: Mapping[str, str]) -> set[str]:
    """Return the ids of the test posts that have no near-duplicate in another part."""
    seen = {group_of[key] for key, part in part_of.items() if part != "test"}
    return {key for key, part in part_of.items() if part == "test" and group_of[key] not in seen}


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write a table of predictions. A table without rows has no columns for the probabilities."""
    columns = (*_PREDICTION_COLUMNS, *labels_of(predictions))
    write_table(path, [prediction.cells() for prediction in predictions], columns)


def read_predictions(path: Path, other_columns: Collection[str] = ()) -> list[Prediction]:
    """Read a table of predictions. All columns but the first three and `other_columns` are labels."""
    skipped = {*_PREDICTION_COLUMNS, *other_columns}
    return [
        Prediction(
            row["id"],
            row["actual"],
            row["predicted"],
            {column: float(cell) for column, cell in row.items() if column not in skipped},
        )
        for row in read_table(path)
    ]


def labels_of(predictions: Sequence[Prediction]) -> tuple[str, ...]:
    """Return the labels of a table of predictions, in order; none of an empty table."""
    return tuple(predictions[0].probabilities) if predictions else ()


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval. `low` and `high` are None if no spread can be estimated."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Bin:
    """A calibration bin: the posts whose confidence lies above `low` and not above `high`."""

    low: float
    high: float
    posts: int
    # The mean confidence of the posts; None without posts.
    confidence: float | None
    # The share of right predictions; None without posts.
    accuracy: float | None
