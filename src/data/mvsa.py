"""Reader of folders in the layout of MVSA-Single and -Multiple: `data/<id>.jpg`, `data/<id>.txt`, `labelResultAll.txt`.

Harmless deviations are read and counted: images with another suffix or letter case, and folders above.

Source: T. Niu, S. Zhu, L. Pang, A. El Saddik, Sentiment Analysis on Multi-view Social Data, MMM 2016.
"""

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
from src.data.mvsa_labels import LABEL_FILE, Pair, read_labels

POST_FOLDER = "data"
IMAGE = ".jpg"
CAPTION = ".txt"
# The number of folder levels that are searched for the layout.
_DEPTH = 2


@dataclass(frozen=True)
class DatasetIndex:
    """The posts of a folder by file names and labels, with ids in numeric order. No caption or image has been read."""

    root: Path
    # The number of annotators of each post.
    num_annotators: int
    # Text label and image label of each complete post: one with a label row with majorities, a caption and an image.
    pairs: dict[str, Pair]
    dropped: tuple[DroppedPost, ...]
    # The number of dropped posts without a majority for the text or the image.
    num_undecided: int
    # Image file and caption file of each complete post.
    files: dict[str, tuple[Path, Path]]
    # Numbers of deviations from the layout, by kind.
    variants: dict[str, int]


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


def find_root(path: Path) -> Path:
    """Return the folder in MVSA's layout: `path` itself, or the only such folder up to two levels below.

    Raises:
        UserError: there is no such folder, or more than one; the message says what is missing.
    """
    if not path.is_dir():
        raise UserError(f"{path} is no folder: give the folder that has {LABEL_FILE} and {POST_FOLDER}/ in it")
    if not _missing_in(path):
        return path
    level = [path]
    for _ in range(_DEPTH):
        level = [folder for above in level for folder in sorted(above.iterdir()) if folder.is_dir()]
        roots = [folder for folder in level if not _missing_in(folder)]
        if len(roots) > 1:
            raise UserError(f"{path} holds several data sets: give one of {', '.join(map(str, roots))}")
        if roots:
            return roots[0]
    raise UserError(
        f"{path} has no {' and no '.join(_missing_in(path))}, and no folder in it has both, up to {_DEPTH} deep"
    )


def survey(root: Path) -> DatasetIndex:
    """Read the label file and list the posts, without opening their files.

    Raises:
        UserError: a row of the label file is malformed, or a post has two images or two captions.
    """
    labels = read_labels(root / LABEL_FILE)
    names = sorted(path for path in (root / POST_FOLDER).iterdir() if not path.name.startswith("."))
    image_of = _by_id(names, images.SUFFIXES)
    caption_of = _by_id(names, (CAPTION,))
    labelled = labels.pairs.keys() | labels.undecided
    kinds = (("no label row", labelled), ("no image", image_of), ("no caption", caption_of))
    complete: dict[str, Pair] = {}
    dropped = []
    for key in sorted({*labelled, *image_of, *caption_of}, key=numeric_id_key):
        faults = [fault for fault, ids in kinds if key not in ids]
        if key in labels.undecided:
            faults.append(labels.undecided[key])
        if faults:
            dropped.append(DroppedPost(key, ", ".join(faults)))
        else:
            complete[key] = labels.pairs[key]
    files = {key: (image_of[key], caption_of[key]) for key in complete}
    suffixes = Counter(path.suffix for pair in files.values() for path in pair)
    labels.variants.update({f"files in {suffix}": suffixes[suffix] for suffix in suffixes.keys() - {IMAGE, CAPTION}})
    variants = {name: count for name, count in sorted(labels.variants.items()) if count}
    return DatasetIndex(root, labels.num_annotators, complete, tuple(dropped), len(labels.undecided), files, variants)


def with_labels(index: DatasetIndex, label_names: Sequence[str]) -> DatasetIndex:
    """Return the index without the posts that have another label than these, which are dropped.

    Raises:
        UserError: no post has one of the labels.
    """
    others = {key: [label for label in pair if label not in label_names] for key, pair in index.pairs.items()}
    dropped = [
        DroppedPost(key, f"the label {labels[0]} is not among labels") for key, labels in others.items() if labels
    ]
    kept = {key: pair for key, pair in index.pairs.items() if not others[key]}
    found = {label for pair in index.pairs.values() for label in pair}
    absent = [label for label in label_names if label not in found]
    if absent:
        raise UserError(
            f"{index.root}: no post has the label {' or '.join(absent)}; its labels are {', '.join(sorted(found))}: "
            "name those wanted under labels in params.yaml"
        )
    return replace(
        index,
        pairs=kept,
        files={key: index.files[key] for key in kept},
        dropped=tuple(sorted([*index.dropped, *dropped], key=lambda post: numeric_id_key(post.id))),
    )


def read_folder(
    index: DatasetIndex, protocol: str, max_pixels: int, on_post: Callable[[], None], *, hashes: bool = True
) -> LoadedDataset:
    """Read every complete post, and decode its image as a check.

    Args:
        index: the posts to read, from `survey`.
        protocol: one of `PROTOCOLS`. A post that it leaves out has an empty label.
        max_pixels: the largest image that is decoded, width times height.
        on_post: is called once a post.
        hashes: compute perceptual hashes. Only the search for near-duplicates needs them.

    Raises:
        UserError: no post can be read.
    """

    def read(key: str) -> "_Entry | DroppedPost":
        try:
            return _read_post(index, key, protocol, max_pixels, hashes)
        except images.UnreadableImage as error:
            return DroppedPost(key, f"the image is {error.reason}")
        except OSError as error:
            return DroppedPost(key, f"a file cannot be read ({error.strerror})")

    results = []
    # Threads are enough, because Pillow releases the interpreter's lock while it decodes.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for result in pool.map(read, index.pairs):
            results.append(result)
            on_post()
    entries = [result for result in results if isinstance(result, _Entry)]
    posts = tuple(entry.post for entry in entries)
    if not posts:
        raise UserError(f"{index.root}: none of {len(index.pairs):,} posts can be read")
    dropped = [*index.dropped, *(result for result in results if isinstance(result, DroppedPost))]
    return LoadedDataset(
        posts,
        tuple(entry.fingerprint for entry in entries),
        tuple(entry.encoding for entry in entries),
        tuple(entry.size for entry in entries),
        tuple(sorted(dropped, key=lambda post: numeric_id_key(post.id))),
    )


def decode_caption(content: bytes) -> tuple[str, str]:
    """Return a caption and its encoding from `encodings.decode`.

    Line ends at the end are removed, others become newlines.
    """
    lines, encoding = encodings.lines(content)
    return "\n".join(lines).rstrip("\n"), encoding


@dataclass(frozen=True)
class _Entry:
    post: Post
    fingerprint: Fingerprint
    encoding: str
    size: tuple[int, int]


def _read_post(index: DatasetIndex, key: str, protocol: str, max_pixels: int, hashes: bool) -> _Entry:
    path, caption_path = index.files[key]
    content = path.read_bytes()
    image = images.open_image(content, max_pixels)
    image_hash = images.perceptual_hash(image) if hashes else ""
    fingerprint = Fingerprint(key, hashlib.sha256(content).hexdigest(), image_hash)
    caption, encoding = decode_caption(caption_path.read_bytes())
    pair = index.pairs[key]
    label = label_of(protocol, *pair) or ""
    post = Post(key, path.as_posix(), caption, *pair, label, content_digest(content, caption))
    return _Entry(post, fingerprint, encoding, image.size)


def _by_id(paths: Sequence[Path], suffixes: Sequence[str]) -> dict[str, Path]:
    """Return the file of each id that has one of the suffixes, in any letter case.

    Raises:
        UserError: an id has two such files.
    """
    path_of: dict[str, Path] = {}
    for path in paths:
        if path.suffix.lower() in suffixes and path_of.setdefault(path.stem, path) != path:
            raise UserError(f"{path_of[path.stem]} and {path} are of one post: remove one of the files")
    return path_of


def require_all_labels(posts: Sequence[Post], label_names: Sequence[str], protocol: str) -> None:
    """Raise UserError unless every label has a post under the protocol."""
    counts = Counter(post.label for post in posts)
    absent = [label for label in label_names if not counts[label]]
    if absent:
        raise UserError(
            f"no {' and no '.join(absent)} post among {len(posts):,} readable ones under protocol {protocol}, "
            "and training needs all labels"
        )


def _missing_in(folder: Path) -> list[str]:
    present = {LABEL_FILE: (folder / LABEL_FILE).is_file(), f"{POST_FOLDER}/": (folder / POST_FOLDER).is_dir()}
    return [name for name, is_present in present.items() if not is_present]
