"""Posts to predict: a folder of images and captions, or a CSV that names them."""

import csv
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.core.errors import UsageError, UserError, unknown
from src.data.images import UnreadableImage, blank, inspect
from src.data.mvsa import decode_caption

IMAGES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp")
CAPTION = ".txt"
# The columns of a CSV, with the names under which a column is recognised.
COLUMNS: Mapping[str, Sequence[str]] = {
    "id": ("id",),
    "image": ("image", "image_path", "picture"),
    "text": ("text", "caption"),
    "label": ("label",),
}
_DELIMITERS = ",;\t"
# The csv module allows 131,072 characters by default. This is the most that it can allow.
_LONGEST_CELL = 2**31 - 1


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
        """Read and check the image. Return its content, or that of a blank image if the post has none.

        Raises:
            UserError: the post cannot be predicted; the message says why.
        """
        if self.fault:
            raise UserError(self.fault)
        if self.image is None:
            if not self.text.strip():
                raise UserError("it has neither image nor caption")
            return blank()
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
    """The posts of a folder or CSV."""

    posts: tuple[InputPost, ...]
    # Names of columns or files that are not read.
    ignored: tuple[str, ...]
    # Files that are read.
    files: frozenset[Path]


def read_folder(folder: Path) -> Listing:
    """List the posts of a folder. An image and a text file of one name are one post; either alone is one too.

    Images of one name, such as a.jpg and a.png, are separate posts that share the text.

    Raises:
        UserError: the folder holds neither images nor captions.
    """
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    images = _by_stem(files, IMAGES)
    captions = _by_stem(files, (CAPTION,))
    if not images and not captions:
        raise UserError(f"{folder} holds no images ({', '.join(IMAGES)}) and no captions ({CAPTION})")
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


def read_csv(path: Path, names: Mapping[str, str] | None = None) -> Listing:
    """List the posts of a CSV. Image paths are relative to its folder, and an image or a text may be empty.

    Columns have the names in `COLUMNS`, in any letter case, or those in `names`. The header shows whether commas,
    semicolons or tabs separate the cells.

    Raises:
        UsageError: a column is missing or ambiguous.
        UserError: the file is no CSV in UTF-8, or has no row.
    """
    limit = csv.field_size_limit(_LONGEST_CELL)
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter = max(_DELIMITERS, key=file.readline().count)
            file.seek(0)
            rows = _numbered(csv.reader(file, delimiter=delimiter, strict=True))
            header = [cell.strip() for cell in next(rows, (1, []))[1]]
            places = _places(path, header, names or {})
            posts = []
            for line, cells in rows:
                posts.append(_read_row(path.parent, line, cells, places, len(header)))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not in UTF-8 ({error}): save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path}, after line {line}: {error}; check the quotes") from error
    finally:
        csv.field_size_limit(limit)
    if not posts:
        raise UserError(f"{path} has no rows")
    ignored = tuple(name for place, name in enumerate(header) if place not in places.values())
    return Listing(tuple(posts), ignored, frozenset([path, *(post.image for post in posts if post.image)]))


def _numbered(reader: Iterable[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, with the number of their first line."""
    line = 1
    for cells in reader:
        if cells:
            yield line, cells
        line = reader.line_num + 1  # type: ignore[attr-defined]


def _places(path: Path, header: Sequence[str], names: Mapping[str, str]) -> dict[str, int]:
    """Return the place of each column of `COLUMNS` in the header."""
    places = {}
    for role, known in COLUMNS.items():
        wanted = [names[role]] if role in names else known
        matches = [place for place, name in enumerate(header) if (name if role in names else name.casefold()) in wanted]
        if len(matches) > 1:
            choice = " or ".join(header[place] for place in matches)
            raise UsageError(f"{path}: the {role} could be in {choice}: choose with --column {role}=NAME")
        if role in names and not matches:
            raise unknown("column", names[role], header)
        if matches:
            places[role] = matches[0]
    if not {"image", "text"} & places.keys():
        raise UsageError(
            f"{path} has the columns {', '.join(header) or 'none'}: name those of the posts with --column "
            "image=NAME and --column text=NAME; the first line must be a header"
        )
    return places


def _read_row(folder: Path, line: int, cells: Sequence[str], places: Mapping[str, int], width: int) -> InputPost:
    values = {role: cells[place].strip() for role, place in places.items() if place < len(cells)}
    image, text, label = (values.get(role, "") for role in ("image", "text", "label"))
    fault = ""
    if any(cell.strip() for cell in cells[width:]):
        fault = f"line {line} has {len(cells)} cells, and the header {width}: quote a text that holds delimiters"
    return InputPost(values.get("id") or image or f"line {line}", folder / image if image else None, text, label, fault)


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
