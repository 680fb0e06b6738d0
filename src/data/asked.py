"""Posts that somebody brings along to be judged: a folder of pictures and captions, or a CSV that names them."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from src.core.errors import Refusal, unknown
from src.core.labels import TONES
from src.data.images import UnreadableImage, inspect
from src.data.mvsa import decode_caption

PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp")
CAPTION = ".txt"
_COLUMNS = ("image", "text", "label")


@dataclass(frozen=True)
class Asked:
    """A post to be judged; `image` is None where it has no picture, `text` empty where it has no caption.

    `id` names it to whoever asked; `label` is its tone, if they know it, else empty.
    """

    id: str
    image: Path | None
    text: str
    label: str = ""

    @property
    def missing(self) -> str:
        """Which half the post lacks: image, text, or neither."""
        return "image" if self.image is None else "" if self.text.strip() else "text"

    @property
    def problem(self) -> str:
        """Why the post cannot be judged; empty where it can. The picture is decoded to find out."""
        if self.image is None:
            return "" if self.text.strip() else "it has neither picture nor caption"
        try:
            inspect(self.image)
        except UnreadableImage as error:
            return f"the image is {error.reason}"
        return ""


def read_folder(folder: Path) -> list[Asked]:
    """The posts of a folder: a picture and a text file of one name are one post, either alone is one too.

    Raises:
        Refusal: there is neither in it.
    """
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        kind = "image" if path.suffix.lower() in PICTURES else "text" if path.suffix.lower() == CAPTION else ""
        if kind and path.is_file():
            found.setdefault(path.stem, {})[kind] = path
    if not found:
        raise Refusal(f"{folder} holds no pictures ({', '.join(PICTURES)}) and no captions ({CAPTION})")
    return [Asked(name, each.get("image"), _caption(each.get("text"))) for name, each in found.items()]


def read_csv(path: Path) -> list[Asked]:
    """The posts of a CSV with the columns image (a path, from the CSV's folder) and text, either of which may be empty.

    A column label may give their tones.

    Raises:
        Refusal: a column is missing, a label is no tone, or there is no row.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"image", "text"}.intersection(reader.fieldnames or ()):
                raise Refusal(f"{path}: of the columns image, text at least one is needed, with its name on top")
            posts = list(_rows(path, reader))
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refusal(f"{path} is no CSV in UTF-8: {error}") from error
    if not posts:
        raise Refusal(f"{path} has no rows")
    return posts


def _rows(path: Path, reader: "csv.DictReader[str]") -> Iterator[Asked]:
    for number, row in enumerate(reader, start=2):
        image, text, label = ((row.get(column) or "").strip() for column in _COLUMNS)
        if label and label not in TONES:
            raise Refusal(f"{path}, line {number}: {unknown('tone', label, TONES)}")
        yield Asked(image or f"line {number}", path.parent / image if image else None, text, label)


def _caption(path: Path | None) -> str:
    return decode_caption(path.read_bytes())[0] if path else ""
