"""Reads a folder in the layout of MVSA-Single and -Multiple: `data/<id>.jpg`, `data/<id>.txt`, `labelResultAll.txt`.

What varies without harm is read and counted: pictures with another suffix or in another letter case, and folders above.

Source: T. Niu, S. Zhu, L. Pang, A. El Saddik, Sentiment Analysis on Multi-view Social Data, MMM 2016.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from src.core.errors import UserError
from src.core.labels import TONES, label_of
from src.core.records import DroppedPost, Fingerprint, Post, content_digest, numeric_id_key
from src.data import encodings, images
from src.data.mvsa_labels import LABEL_FILE, Pair, read_labels

POST_FOLDER = "data"
PICTURE, CAPTION = ".jpg", ".txt"
_DEPTH = 2


@dataclass(frozen=True)
class DatasetIndex:
    """What a folder holds by its names and labels; no caption has been read and no image decoded.

    `pairs` has the text and the image label of every post with all three of label row, caption and image, each the one
    that more than half of its `num_annotators` gave. Of `dropped`, `num_undecided` have no such label of text or image.
    `files` has the picture and the caption of each of `pairs`. `variants` says how often what is there differs from the
    layout, by what differs. Ids are in numeric order.
    """

    root: Path
    num_annotators: int
    pairs: dict[str, Pair]
    dropped: tuple[DroppedPost, ...]
    num_undecided: int
    files: dict[str, tuple[Path, Path]]
    variants: dict[str, int]


@dataclass(frozen=True)
class LoadedDataset:
    """What could be read of a folder: posts in numeric order, and beside each its fingerprint, encoding and size.

    A size is width and height in pixels.
    """

    posts: tuple[Post, ...]
    fingerprints: tuple[Fingerprint, ...]
    encodings: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    dropped: tuple[DroppedPost, ...]


def find_root(path: Path) -> Path:
    """The folder in MVSA's layout: `path` itself, or the one folder that has it, up to two folders down.

    Raises:
        UserError: there is none, or more than one; the message says what is missing.
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
    """Read the label file and list the posts, without opening any of them.

    Raises:
        UserError: a row of the label file is malformed, or two files are the picture, or the caption, of one post.
    """
    labels = read_labels(root / LABEL_FILE)
    names = sorted(path for path in (root / POST_FOLDER).iterdir() if not path.name.startswith("."))
    pictures, captions = _by_id(names, images.SUFFIXES), _by_id(names, (CAPTION,))
    labelled = labels.pairs.keys() | labels.undecided
    kinds = (("no label row", labelled), ("no image", pictures), ("no caption", captions))
    whole, dropped = {}, []
    for key in sorted({*labelled, *pictures, *captions}, key=numeric_id_key):
        faults = [fault for fault, ids in kinds if key not in ids]
        if key in labels.undecided:
            faults.append(labels.undecided[key])
        if faults:
            dropped.append(DroppedPost(key, ", ".join(faults)))
        else:
            whole[key] = labels.pairs[key]
    files = {key: (pictures[key], captions[key]) for key in whole}
    suffixes = Counter(path.suffix for pair in files.values() for path in pair)
    labels.variants.update({f"files in {suffix}": suffixes[suffix] for suffix in suffixes.keys() - {PICTURE, CAPTION}})
    variants = {name: count for name, count in sorted(labels.variants.items()) if count}
    return DatasetIndex(root, labels.num_annotators, whole, tuple(dropped), len(labels.undecided), files, variants)


def read_folder(
    found: DatasetIndex, protocol: str, max_pixels: int, on_post: Callable[[], None], *, hashes: bool = True
) -> LoadedDataset:
    """Read every surveyed post and decode its image, to know that it can be.

    Args:
        found: what `survey` found.
        protocol: one of `PROTOCOLS`, which makes the label; empty where it leaves the post out.
        max_pixels: the largest image that is decoded, width times height.
        on_post: called once a post.
        hashes: whether to compute perceptual hashes. Only the search for near-duplicates needs them.

    Raises:
        UserError: no post can be read, or a tone has none under the protocol.
    """

    def attempt(key: str) -> "_Entry | DroppedPost":
        try:
            return _read_post(found, key, protocol, max_pixels, hashes)
        except images.UnreadableImage as error:
            return DroppedPost(key, f"the image is {error.reason}")
        except OSError as error:
            return DroppedPost(key, f"a file cannot be read ({error.strerror})")

    outcomes = []
    # Pillow lets go of the interpreter's lock while it decodes, so threads are enough.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for outcome in pool.map(attempt, found.pairs):
            outcomes.append(outcome)
            on_post()
    entries = [outcome for outcome in outcomes if isinstance(outcome, _Entry)]
    posts = tuple(entry.post for entry in entries)
    _require_all_tones(found.root, posts, protocol)
    dropped = [*found.dropped, *(outcome for outcome in outcomes if isinstance(outcome, DroppedPost))]
    return LoadedDataset(
        posts,
        tuple(entry.fingerprint for entry in entries),
        tuple(entry.encoding for entry in entries),
        tuple(entry.size for entry in entries),
        tuple(sorted(dropped, key=lambda post: numeric_id_key(post.id))),
    )


def decode_caption(content: bytes) -> tuple[str, str]:
    """A caption without the line ends that close it, and its encoding, as `encodings.decode` gives it.

    Inner line ends become newlines.
    """
    lines, encoding = encodings.lines(content)
    return "\n".join(lines).rstrip("\n"), encoding


@dataclass(frozen=True)
class _Entry:
    post: Post
    fingerprint: Fingerprint
    encoding: str
    size: tuple[int, int]


def _read_post(found: DatasetIndex, key: str, protocol: str, max_pixels: int, hashes: bool) -> _Entry:
    path, caption_path = found.files[key]
    content = path.read_bytes()
    picture = images.open_image(content, max_pixels)
    image_hash = images.perceptual_hash(picture) if hashes else ""
    fingerprint = Fingerprint(key, hashlib.sha256(content).hexdigest(), image_hash)
    caption, encoding = decode_caption(caption_path.read_bytes())
    pair = found.pairs[key]
    label = label_of(protocol, *pair) or ""
    post = Post(key, path.as_posix(), caption, *pair, label, content_digest(content, caption))
    return _Entry(post, fingerprint, encoding, picture.size)


def _by_id(paths: Sequence[Path], suffixes: Sequence[str]) -> dict[str, Path]:
    """The file of each id, of those with one of the suffixes in whatever letter case.

    Raises:
        UserError: an id has two.
    """
    path_of: dict[str, Path] = {}
    for path in paths:
        if path.suffix.lower() in suffixes and path_of.setdefault(path.stem, path) != path:
            raise UserError(f"{path_of[path.stem]} and {path} are of one post: remove one of the files")
    return path_of


def _require_all_tones(root: Path, posts: tuple[Post, ...], protocol: str) -> None:
    counts = Counter(post.label for post in posts if post.label)
    absent = [tone for tone in TONES if not counts[tone]]
    if absent:
        raise UserError(
            f"{root}: of {len(posts):,} readable posts none is {' or '.join(absent)} under the {protocol} protocol, "
            "and a classifier of three tones needs all three"
        )


def _missing_in(folder: Path) -> list[str]:
    found = {LABEL_FILE: (folder / LABEL_FILE).is_file(), f"{POST_FOLDER}/": (folder / POST_FOLDER).is_dir()}
    return [name for name, is_there in found.items() if not is_there]
