"""Posts to predict: a folder of images and captions, or a table that names them."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.core.errors import UserError
from src.data.columns import INPUT_COLUMNS, PostRow, read_rows
from src.data.encodings import UTF_8, decode_caption
from src.data.images import SUFFIXES, UnreadableImage, inspect, placeholder

CAPTION = ".txt"


@dataclass(frozen=True)
class InputPost:
    """A post to predict."""

    # The name of the post in the output.
    id: str
    # None if the post has no image.
    image: Path | None
    # Empty if the post has no caption.
    text: str
    # The label as the user gives it; empty if unknown.
    label: str = ""
    # The reason why the post cannot be predicted, if its reader has found one.
    fault: str = ""

    @property
    def missing(self) -> str:
        """The half that the post lacks: image, text, or an empty string for none."""
        if self.image is None:
            return "image"
        return "" if self.text.strip() else "text"

    def read(self) -> bytes:
        """Read and check the image. Return its content, or that of the placeholder if the post has none.

        Raises:
            UserError: the post cannot be predicted; the message says why.
        """
        if self.fault:
            raise UserError(self.fault)
        if self.image is None:
            if not self.text.strip():
                raise UserError("it has neither image nor caption")
            return placeholder()
        try:
            content = self.image.read_bytes()
            inspect(content)
        except UnreadableImage as error:
            raise UserError(f"the image is {error.reason}") from error
        except OSError as error:
            raise UserError(f"the image cannot be read ({error.strerror})") from error
        except ValueError as error:  # a name that no file can have, such as one with a zero byte
            raise UserError(f"the image cannot be read ({error})") from error
        return content


@dataclass(frozen=True)
class Listing:
    """The posts of a folder or table."""

    posts: tuple[InputPost, ...]
    # Names of columns or files that are not read.
    ignored: tuple[str, ...]
    # Files that are read.
    files: frozenset[Path]
    # The encoding of a table, from `encodings.decode`.
    encoding: str = UTF_8


def read_folder(folder: Path) -> Listing:
    """List the posts of a folder. An image and a text file of one name are one post; either alone is one too.

    Images of one name, such as a.jpg and a.png, are separate posts that share the text.

    Raises:
        UserError: the folder holds neither images nor captions.
    """
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    images = _by_stem(files, SUFFIXES)
    captions = _by_stem(files, (CAPTION,))
    if not images and not captions:
        raise UserError(f"{folder} holds no images ({', '.join(SUFFIXES)}) and no captions ({CAPTION})")
    posts = []
    for stem in sorted(images.keys() | captions.keys()):
        text, fault = _caption(captions.get(stem, []))
        candidates: Sequence[Path | None] = images.get(stem) or [None]
        for image in candidates:
            name = stem if image is None or len(candidates) == 1 else image.name
            posts.append(InputPost(_printable(name), image, text, fault=fault))
    known = {path for paths in (*images.values(), *captions.values()) for path in paths}
    ignored = tuple(_printable(path.name) for path in files if path not in known)
    return Listing(tuple(posts), ignored, frozenset(known))


def read_table(path: Path, names: Mapping[str, str] | None = None) -> Listing:
    """List the posts of a table. Image paths are relative to its folder, and an image or a text may be empty.

    Columns have the names in `INPUT_COLUMNS`, in any letter case, or those in `names`.

    Raises:
        UsageError: a column is missing or ambiguous.
        UserError: the file is no table, or has no row.
    """
    table = read_rows(path, INPUT_COLUMNS, names or {})
    posts = tuple(_input_post(path.parent, row) for row in table.rows)
    files = frozenset([path, *(post.image for post in posts if post.image)])
    return Listing(posts, tuple(table.ignored), files, table.encoding)


def _input_post(folder: Path, row: PostRow) -> InputPost:
    image, text, label = (row.values.get(role, "") for role in ("image", "text", "label"))
    key = row.values.get("id") or image or row.place
    return InputPost(key, folder / image if image else None, text, label, row.fault)


def _by_stem(files: Iterable[Path], suffixes: Sequence[str]) -> dict[str, list[Path]]:
    paths = defaultdict(list)
    for path in files:
        if path.suffix.lower() in suffixes and path.is_file():
            paths[path.stem].append(path)
    return dict(paths)


def _caption(paths: Sequence[Path]) -> tuple[str, str]:
    """Return the caption in a post's text files, and the reason if it cannot be read; one of the two is empty."""
    if len(paths) > 1:
        return "", f"its caption could be {' or '.join(_printable(path.name) for path in paths)}"
    try:
        return decode_caption(paths[0].read_bytes())[0] if paths else "", ""
    except OSError as error:
        return "", f"its caption cannot be read ({error.strerror})"


def _printable(name: str) -> str:
    """Return a file's name in which U+FFFD replaces bytes that are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")
