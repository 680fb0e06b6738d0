"""Outputs of the stages `prepare` and `split` as typed records."""

from dataclasses import dataclass

from src.core.outputs import StageOutput
from src.core.records import DroppedPost

# The number of posts that each protocol labels in MVSA-Single. It tells the dataset from others.
MVSA_SINGLE = {"agreement": 2_592, "standard": 4_511}


@dataclass(frozen=True)
class DroppedPosts:
    """The posts that `prepare` leaves out."""

    count: int
    # The number of posts for each reason, the most frequent reason first.
    reasons: dict[str, int]
    posts: tuple[DroppedPost, ...]


@dataclass(frozen=True)
class Quantiles:
    """The smallest, median and largest of some numbers."""

    min: int | float
    median: int | float
    max: int | float


@dataclass(frozen=True)
class WordCounts(Quantiles):
    """Numbers of words in a caption."""

    p95: int | float


@dataclass(frozen=True)
class DataReport(StageOutput):
    """The posts that `prepare` has read, and those that it has left out: prepare/report.json."""

    protocol: str
    # Digest of the posts' contents and labels.
    data_digest: str
    # Number of annotators of each post; None for a table, which does not tell it.
    annotators: int | None
    posts: int
    # Number of posts that have a label under `protocol`.
    labelled: int
    # Number of posts by protocol and label.
    label_counts: dict[str, dict[str, int]]
    # Number of posts by text label and image label, such as "positive,neutral".
    label_pairs: dict[str, int]
    dropped: DroppedPosts
    # Number of deviations from MVSA's layout that do no harm, by kind.
    variants: dict[str, int]
    # Number of captions by encoding.
    encodings: dict[str, int]
    # Ids of the posts whose caption may be read wrongly, by the encoding that was guessed.
    guessed_encodings: dict[str, tuple[str, ...]]
    caption_words: WordCounts
    empty_captions: int
    image_width_px: Quantiles
    image_height_px: Quantiles
    image_megapixels: Quantiles

    @property
    def labels_whole_posts(self) -> bool:
        """Whether the posts came in a table without a post whose text label and image label differ."""
        pairs = (pair.split(",") for pair in self.label_pairs)
        return self.annotators is None and all(text == image for text, image in pairs)


@dataclass(frozen=True)
class PredefinedLists:
    """The lists that a predefined split was read from."""

    folder: str
    # None if the lists have no folds.
    fold: int | None


@dataclass(frozen=True)
class SplitReport(StageOutput):
    """The settings and sizes of a split: split/report.json."""

    kind: str
    protocol: str
    seed: int
    # None unless `kind` is predefined.
    predefined: PredefinedLists | None
    # Digest of the posts' contents and labels.
    data_digest: str
    # Digest of the part of each post.
    split_digest: str
    # Number of posts by part and label.
    parts: dict[str, dict[str, int]]
    # Number of labelled posts that the lists of a predefined split do not name.
    in_no_part: int
    # Number of posts in no part that `unimodal_labels` trains on.
    unimodal: int

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of params.yaml."""
        return tuple(next(iter(self.parts.values())))

    @property
    def num_posts(self) -> int:
        """The number of posts in all parts."""
        return sum(sum(counts.values()) for counts in self.parts.values())

    @property
    def is_mvsa_single(self) -> bool:
        """Whether the posts are MVSA-Single, judged by their number."""
        return self.num_posts == MVSA_SINGLE[self.protocol]


@dataclass(frozen=True)
class CrossPartDuplicates:
    """Numbers of posts in `part` that have a near-duplicate in the part `duplicate_in`, by what is alike."""

    part: str
    duplicate_in: str
    caption: int
    image: int
    looks: int
    any: int


@dataclass(frozen=True)
class GroupCounts:
    """Numbers of groups of two or more near-duplicates."""

    groups: int
    # Number of posts in these groups.
    posts: int
    # Number of groups whose posts have several labels.
    conflicting: int


@dataclass(frozen=True)
class ImageCounts:
    """Numbers of images."""

    posts: int
    # Number of images that equal an earlier one byte for byte.
    surplus_identical: int


@dataclass(frozen=True)
class RevealingHashtag:
    """A hashtag that gives a label away."""

    hashtag: str
    label: str
    # Number of posts with the hashtag.
    posts: int
    # Number of these posts that have the label.
    with_label: int


@dataclass(frozen=True)
class ExamplePost:
    """A post, as an example shows it."""

    id: str
    label: str
    caption: str


@dataclass(frozen=True)
class ExamplePostOfPart:
    """A post and its part, as an example shows it."""

    id: str
    part: str
    label: str
    caption: str


@dataclass(frozen=True)
class ExampleDuplicates:
    """A test post and a near-duplicate of it in train."""

    # What is alike: caption, image or looks.
    kinds: tuple[str, ...]
    posts: tuple[ExamplePostOfPart, ...]


@dataclass(frozen=True)
class LeakExamples:
    """Examples of leaks."""

    # Pairs by what is alike.
    near_duplicates: dict[str, tuple[ExampleDuplicates, ...]]
    # Groups of near-duplicates with several labels.
    conflicting: tuple[tuple[ExamplePost, ...], ...]


@dataclass(frozen=True)
class LeakReport(StageOutput):
    """The leaks of a split: split/leaks.json. It holds captions, so do not publish it."""

    # The definition of each kind of near-duplicate.
    rules: dict[str, str]
    # Number of posts by part.
    parts: dict[str, int]
    # Number of test posts without a near-duplicate in another part.
    leak_free_test_posts: int
    near_duplicates: tuple[CrossPartDuplicates, ...]
    # Groups by what is alike.
    groups: dict[str, GroupCounts]
    # Number of captions without words and hashtags, by part.
    captions_without_words: dict[str, int]
    images: ImageCounts
    hashtags: tuple[RevealingHashtag, ...]
    examples: LeakExamples
