"""Reading of labelled posts from a folder, whatever its layout: their records, image fingerprints and faults."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from src.core.errors import UserError
from src.core.labels import label_of
from src.core.records import DroppedPost, Fingerprint, Post, content_digest, numeric_id_key
from src.data import encodings, images

Pair = tuple[str, str]


@dataclass(frozen=True)
class SourcePost:
    """A complete post: one with an image file, a caption, a text label and an image label."""

    image: Path
    # The file of the caption, or the caption itself.
    caption: Path | str
    # Text label and image label.
    pair: Pair
    # The part of the split that came with the posts; empty without one.
    part: str = ""
    # The group that came with the posts; empty without one.
    group: str = ""

    def read_caption(self) -> tuple[str, str]:
        """Return the caption and its encoding from `encodings.decode`.

        Raises:
            OSError: the file cannot be read.
        """
        if isinstance(self.caption, str):
            return self.caption, encodings.UTF_8
        return encodings.decode_caption(self.caption.read_bytes())


@dataclass(frozen=True)
class DatasetIndex:
    """The posts of a folder or table, with ids in numeric order. No image has been opened."""

    root: Path
    # The number of annotators of each post; None if it is unknown.
    num_annotators: int | None
    # The complete posts by id.
    posts: dict[str, SourcePost]
    dropped: tuple[DroppedPost, ...]
    # The number of dropped posts without a majority for the text or the image.
    num_undecided: int
    # Numbers of deviations from the layout, by kind.
    variants: dict[str, int]

    @property
    def pairs(self) -> dict[str, Pair]:
        """Return the text label and image label of each complete post, by id."""
        return {key: post.pair for key, post in self.posts.items()}


@dataclass(frozen=True)
class LoadedDataset:
    """The posts of a folder that could be read, in numeric order. The other fields follow this order."""

    posts: tuple[Post, ...]
    fingerprints: tuple[Fingerprint, ...]
    # Encodings of the captions.
    encodings: tuple[str, ...]
    # Width and height of the images, in pixels.
    sizes: tuple[tuple[int, int], ...]
    dropped: tuple[DroppedPost, ...]


def with_labels(index: DatasetIndex, label_names: Sequence[str]) -> DatasetIndex:
    """Return the index without the posts that have another label than these, which are dropped.

    Raises:
        UserError: no post has one of the labels.
    """
    others = {key: [label for label in pair if label not in label_names] for key, pair in index.pairs.items()}
    dropped = [
        DroppedPost(key, f"the label {labels[0]} is not among labels") for key, labels in others.items() if labels
    ]
    kept = {key: post for key, post in index.posts.items() if not others[key]}
    found = {label for pair in index.pairs.values() for label in pair}
    absent = [label for label in label_names if label not in found]
    if absent:
        raise UserError(
            f"{index.root}: no post has the label {' or '.join(absent)}; its labels are {', '.join(sorted(found))}: "
            "name those wanted under labels in params.yaml"
        )
    return replace(
        index,
        posts=kept,
        dropped=tuple(sorted([*index.dropped, *dropped], key=lambda post: numeric_id_key(post.id))),
    )


def read_folder(
    index: DatasetIndex, protocol: str, max_pixels: int, on_post: Callable[[], None], *, hashes: bool = True
) -> LoadedDataset:
    """Read every complete post, and decode its image as a check.

    Args:
        index: the posts to read, from `layouts.survey`.
        protocol: one of `PROTOCOLS`. A post that it leaves out has an empty label.
        max_pixels: the largest image that is decoded, width times height.
        on_post: is called once a post.
        hashes: compute perceptual hashes. Only the search for near-duplicates needs them.

    Raises:
        UserError: no post can be read.
    """

    def read(key: str) -> "_Entry | DroppedPost":
        try:
            return _read_post(key, index.posts[key], protocol, max_pixels, hashes)
        except images.UnreadableImage as error:
            return DroppedPost(key, f"the image is {error.reason}")
        except OSError as error:
            return DroppedPost(key, f"a file cannot be read ({error.strerror})")

    results = []
    # Threads are enough, because Pillow releases the interpreter's lock while it decodes.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for result in pool.map(read, index.posts):
            results.append(result)
            on_post()
    entries = [result for result in results if isinstance(result, _Entry)]
    posts = tuple(entry.post for entry in entries)
    if not posts:
        raise UserError(f"{index.root}: none of {len(index.posts):,} posts can be read")
    dropped = [*index.dropped, *(result for result in results if isinstance(result, DroppedPost))]
    return LoadedDataset(
        posts,
        tuple(entry.fingerprint for entry in entries),
        tuple(entry.encoding for entry in entries),
        tuple(entry.size for entry in entries),
        tuple(sorted(dropped, key=lambda post: numeric_id_key(post.id))),
    )


def require_all_labels(posts: Sequence[Post], label_names: Sequence[str], protocol: str) -> None:
    """Raise UserError unless every label has a post under the protocol."""
    counts = Counter(post.label for post in posts)
    absent = [label for label in label_names if not counts[label]]
    if absent:
        raise UserError(
            f"no {' and no '.join(absent)} post among {len(posts):,} readable ones under protocol {protocol}, "
            "and training needs all labels"
        )


@dataclass(frozen=True)
class _Entry:
    post: Post
    fingerprint: Fingerprint
    encoding: str
    size: tuple[int, int]


def _read_post(key: str, source: SourcePost, protocol: str, max_pixels: int, hashes: bool) -> _Entry:
    content = source.image.read_bytes()
    image = images.open_image(content, max_pixels)
    image_hash = images.perceptual_hash(image) if hashes else ""
    fingerprint = Fingerprint(key, hashlib.sha256(content).hexdigest(), image_hash)
    caption, encoding = source.read_caption()
    label = label_of(protocol, *source.pair) or ""
    digest = content_digest(content, caption)
    path = source.image.as_posix()
    post = Post(key, path, caption, *source.pair, label, digest, part=source.part, group=source.group)
    return _Entry(post, fingerprint, encoding, image.size)
