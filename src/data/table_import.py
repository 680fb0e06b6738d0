"""Imported tables: a copy of a table's usable posts, images included, in an image folder that `dvc repro` can copy.

    metadata.csv    a row for each post: file_name, id, text, text_label, image_label, split, group
    left_out.csv    id and reason of each row that was left out
    images/         the images, each named by its content

The table is copied instead of being read in place, because its folder may hold anything, and its images may lie
anywhere.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from src.core.errors import UserError
from src.core.files import atomic_folder, read_table, write_table
from src.core.records import DroppedPost
from src.data.images import SUFFIXES
from src.data.post_table import METADATA
from src.data.reading import DatasetIndex, SourcePost

TABLE = f"{METADATA}.csv"
LEFT_OUT = "left_out.csv"
IMAGES = "images"
_COLUMNS = ("file_name", "id", "text", "text_label", "image_label", "split", "group")
# Hexadecimal digits of an image's SHA-256 in its name.
_NAME_DIGITS = 32


def is_import(folder: Path) -> bool:
    """Return whether a folder is an imported table."""
    return (folder / TABLE).is_file() and (folder / LEFT_OUT).is_file()


def write_import(index: DatasetIndex, folder: Path, on_post: Callable[[], None]) -> None:
    """Write the posts of a table to a folder, whole or not at all. An older import there is replaced.

    Args:
        index: the posts, from `post_table.survey`.
        folder: is made if it is missing.
        on_post: is called once a post.

    Raises:
        UserError: the folder is something else than an import.
        OSError: an image cannot be read, or the folder cannot be written.
    """
    if folder.exists() and not is_import(folder):
        raise UserError(f"{folder} exists and is no imported table: move it, or give another folder with --to")
    with atomic_folder(folder) as temporary:
        (temporary / IMAGES).mkdir()
        rows = []
        for key, post in index.posts.items():
            rows.append(_row(key, post, _copy_image(post.image, temporary)))
            on_post()
        write_table(temporary / TABLE, rows, _COLUMNS)
        write_table(temporary / LEFT_OUT, [asdict(post) for post in index.dropped], ("id", "reason"))


def with_left_out(index: DatasetIndex) -> DatasetIndex:
    """Return the index of an imported table with the rows that were left out when it was imported."""
    left_out = tuple(DroppedPost(**row) for row in read_table(index.root / LEFT_OUT))
    return replace(index, dropped=(*index.dropped, *left_out))


def _copy_image(image: Path, folder: Path) -> str:
    """Copy an image into the import, and return its path there."""
    content = image.read_bytes()
    suffix = image.suffix.lower() if image.suffix.lower() in SUFFIXES else ""
    name = f"{IMAGES}/{hashlib.sha256(content).hexdigest()[:_NAME_DIGITS]}{suffix}"
    (folder / name).write_bytes(content)
    return name


def _row(key: str, post: SourcePost, image: str) -> dict[str, str]:
    caption, _ = post.read_caption()
    cells = (image, key, caption, *post.pair, post.part, post.group)
    return dict(zip(_COLUMNS, cells, strict=True))
