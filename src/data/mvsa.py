"""Reads a folder in MVSA's layout: `data/<id>.jpg`, `data/<id>.txt`, `labelResultAll.txt`.

Source: T. Niu, S. Zhu, L. Pang, A. El Saddik, Sentiment Analysis on Multi-view Social Data, MMM 2016.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from src.core.errors import Refusal
from src.core.labels import TONES, label_of
from src.core.records import Fingerprint, Post, content_digest, numeric
from src.data import images

LABEL_FILE = "labelResultAll.txt"
POST_FOLDER = "data"
HEADER = "ID\ttext,image"
UTF_8, CP1252 = ENCODINGS = ("utf-8", "cp1252")

# Five bytes mean nothing in cp1252; they stay the control characters of latin-1, as web browsers read them.
_CP1252 = {byte: bytes([byte]).decode("cp1252") for byte in range(0x80, 0xA0) if byte not in b"\x81\x8d\x8f\x90\x9d"}

Pair = tuple[str, str]


@dataclass(frozen=True)
class Dropped:
    """A post that is left out, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Survey:
    """What a folder holds by its names and labels; no caption has been read and no image decoded.

    `pairs` has the text and the image label of every post with all three of label row, caption and image.
    Ids are in numeric order.
    """

    root: Path
    pairs: dict[str, Pair]
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True)
class Reading:
    """What could be read of a folder: posts in numeric order, and beside each its fingerprint, encoding and size.

    A size is width and height in pixels.
    """

    posts: tuple[Post, ...]
    fingerprints: tuple[Fingerprint, ...]
    encodings: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    dropped: tuple[Dropped, ...]


def find_root(path: Path) -> Path:
    """The folder in MVSA's layout: `path` itself, or the one folder in it that has the layout.

    Raises:
        Refusal: there is none, or more than one; the message says what is missing.
    """
    if not path.is_dir():
        raise Refusal(f"{path} is no folder: give the folder that has {LABEL_FILE} and {POST_FOLDER}/ in it")
    if not _missing_in(path):
        return path
    below = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and not _missing_in(folder)]
    if not below:
        raise Refusal(f"{path} has no {' and no '.join(_missing_in(path))}, and no folder in it has both")
    if len(below) > 1:
        raise Refusal(f"{path} holds several data sets: give one of {', '.join(map(str, below))}")
    return below[0]


def survey(root: Path) -> Survey:
    """Read the label file and list the posts, without opening any of them.

    Raises:
        Refusal: a row of the label file is malformed.
    """
    pairs = read_labels(root / LABEL_FILE)
    files = [path for path in (root / POST_FOLDER).iterdir() if not path.name.startswith(".")]
    pictures, captions = ({path.stem for path in files if path.suffix == suffix} for suffix in (".jpg", ".txt"))
    kinds = (("no label row", pairs.keys()), ("no image", pictures), ("no caption", captions))
    whole, dropped = {}, []
    for key in sorted(pairs.keys() | pictures | captions, key=numeric):
        missing = [fault for fault, ids in kinds if key not in ids]
        if missing:
            dropped.append(Dropped(key, ", ".join(missing)))
        else:
            whole[key] = pairs[key]
    return Survey(root, whole, tuple(dropped))


def read_labels(path: Path) -> dict[str, Pair]:
    """The text and the image label of each id.

    Raises:
        Refusal: the header or a row is malformed; the message has the file, the line, what is there and what should be.
    """
    header, *rows = path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
    if header.rstrip() != HEADER:
        raise _bad_row(path, 1, header, f"the header {HEADER!r}")
    pairs: dict[str, Pair] = {}
    for number, row in enumerate(rows, start=2):
        if not row.strip():
            continue
        key, pair = _parse_row(path, number, row)
        if key in pairs:
            raise _bad_row(path, number, row, "each ID once")
        pairs[key] = pair
    return pairs


def read_folder(found: Survey, protocol: str, max_pixels: int, on_post: Callable[[], None]) -> Reading:
    """Read every surveyed post and decode its image, to know that it can be.

    Args:
        found: what `survey` found.
        protocol: one of `PROTOCOLS`, which makes the label; empty where it leaves the post out.
        max_pixels: the largest image that is decoded, width times height.
        on_post: called once a post.

    Raises:
        Refusal: no post can be read, or a tone has none under the protocol.
    """

    def attempt(key: str) -> "_Entry | Dropped":
        try:
            return _read_post(found, key, protocol, max_pixels)
        except images.UnreadableImage as error:
            return Dropped(key, f"the image is {error.reason}")
        except OSError as error:
            return Dropped(key, f"a file cannot be read ({error.strerror})")

    outcomes = []
    # Pillow lets go of the interpreter's lock while it decodes, so threads are enough.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for outcome in pool.map(attempt, found.pairs):
            outcomes.append(outcome)
            on_post()
    entries = [outcome for outcome in outcomes if isinstance(outcome, _Entry)]
    posts = tuple(entry.post for entry in entries)
    _require_all_tones(found.root, posts, protocol)
    dropped = [*found.dropped, *(outcome for outcome in outcomes if isinstance(outcome, Dropped))]
    return Reading(
        posts,
        tuple(entry.fingerprint for entry in entries),
        tuple(entry.encoding for entry in entries),
        tuple(entry.size for entry in entries),
        tuple(sorted(dropped, key=lambda post: numeric(post.id))),
    )


def decode_caption(content: bytes) -> tuple[str, str]:
    """A caption without the line ends that close it, and which of `ENCODINGS` it was in; inner ones become newlines."""
    try:
        text, encoding = content.decode("utf-8-sig"), UTF_8
    except UnicodeDecodeError:
        text, encoding = content.decode("latin-1").translate(_CP1252), CP1252
    return text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n"), encoding


@dataclass(frozen=True)
class _Entry:
    post: Post
    fingerprint: Fingerprint
    encoding: str
    size: tuple[int, int]


def _read_post(found: Survey, key: str, protocol: str, max_pixels: int) -> _Entry:
    path = found.root / POST_FOLDER / f"{key}.jpg"
    content = path.read_bytes()
    picture = images.open_image(content, max_pixels)
    fingerprint = Fingerprint(key, hashlib.sha256(content).hexdigest(), images.perceptual_hash(picture))
    caption, encoding = decode_caption(path.with_suffix(".txt").read_bytes())
    pair = found.pairs[key]
    label = label_of(protocol, *pair) or ""
    post = Post(key, path.as_posix(), caption, *pair, label, content_digest(content, caption))
    return _Entry(post, fingerprint, encoding, picture.size)


def _require_all_tones(root: Path, posts: tuple[Post, ...], protocol: str) -> None:
    counts = Counter(post.label for post in posts if post.label)
    absent = [tone for tone in TONES if not counts[tone]]
    if absent:
        raise Refusal(
            f"{root}: of {len(posts):,} readable posts none is {' or '.join(absent)} under the {protocol} protocol, "
            "and a classifier of three tones needs all three"
        )


def _missing_in(folder: Path) -> list[str]:
    found = {LABEL_FILE: (folder / LABEL_FILE).is_file(), f"{POST_FOLDER}/": (folder / POST_FOLDER).is_dir()}
    return [name for name, is_there in found.items() if not is_there]


def _parse_row(path: Path, number: int, row: str) -> tuple[str, Pair]:
    key, tab, labels = row.rstrip().partition("\t")
    tones = labels.split(",")
    if not (key and tab and len(tones) == 2 and set(tones) <= set(TONES)):
        raise _bad_row(path, number, row, f"ID<TAB>text,image, both of {', '.join(TONES)}")
    return key, (tones[0], tones[1])


def _bad_row(path: Path, number: int, row: str, expected: str) -> Refusal:
    return Refusal(f"{path}, line {number}: found {row.rstrip()!r}, expected {expected}")
