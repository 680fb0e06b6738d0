"""Reader of labelled posts from a table, or from an image folder of Hugging Face's datasets, which has a table in it.

A row that cannot be used is left out, with the reason. Rows of one id that differ are all left out, because nothing
says which is right; equal ones are read once.

Layout of image folders: https://huggingface.co/docs/datasets/image_dataset (ImageFolder). `metadata.csv`, `.jsonl` or
`.parquet` lies in the folder itself, or in one folder for each part, such as `train/` and `test/`.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.core.errors import UsageError, UserError
from src.core.records import PARTS, DroppedPost, numeric_id_key
from src.data import encodings
from src.data.columns import LABELLED_COLUMNS, PostRow, PostRows, read_rows
from src.data.reading import DatasetIndex, SourcePost
from src.data.tables import SUFFIXES

METADATA = "metadata"
DOUBLED = "a doubled id"
UNREADABLE = "an unreadable row"
REPEATED = "rows repeated"
# The names of the parts, by the names that others give them.
_PART_OF = {**{part: part for part in PARTS}, **dict.fromkeys(("dev", "valid", "validation"), "val")}
_LABEL_PAIR = ("text_label", "image_label")
# The longest id, so that a file can be named after it.
_MAX_ID_BYTES = 200


@dataclass(frozen=True)
class _Table:
    path: Path
    # The part that the folder of an image folder's table names; empty without one.
    part: str = ""


@dataclass(frozen=True)
class _Candidate:
    """A row as a post, if it has no fault."""

    id: str
    fault: str
    post: SourcePost


def find_tables(path: Path) -> list[Path]:
    """Return `path` itself if it is a file, or the tables of an image folder; none if the folder is none."""
    return [table.path for table in _tables(path)]


def survey(path: Path, names: Mapping[str, str] | None = None) -> DatasetIndex:
    """Read a table of posts, or the tables of an image folder, and look for the images, without opening them.

    Args:
        path: the table or the folder, for which `find_tables` finds one.
        names: the names of columns that the user gives, by role of `LABELLED_COLUMNS`.

    Raises:
        UsageError: a column is missing or ambiguous.
        UserError: a table is malformed.
    """
    variants: Counter[str] = Counter()
    candidates: list[_Candidate] = []
    for table in _tables(path):
        content = read_rows(table.path, LABELLED_COLUMNS, names or {})
        reader = _RowReader(table, _label_roles(table.path, content, names or {}))
        candidates.extend(reader.read(content.rows, first=len(candidates) + 1, has_ids="id" in content.columns))
        if content.encoding != encodings.UTF_8:
            variants[f"{table.path.name} in {content.encoding}"] += 1
    posts, dropped, num_repeated = _unique(candidates)
    variants[REPEATED] = num_repeated
    root = path.parent if path.is_file() else path
    shown = {name: count for name, count in sorted(variants.items()) if count}
    return DatasetIndex(root, None, posts, tuple(dropped), 0, shown)


def _tables(path: Path) -> list[_Table]:
    if path.is_file():
        return [_Table(path)]
    if table := _metadata(path):
        return [_Table(table)]
    if not path.is_dir():
        return []
    folders = [(folder, _PART_OF.get(folder.name.lower())) for folder in sorted(path.iterdir())]
    return [_Table(table, part) for folder, part in folders if part and (table := _metadata(folder))]


def _metadata(folder: Path) -> Path | None:
    """Return the table of an image folder.

    Raises:
        UserError: there are several.
    """
    found = [path for suffix in SUFFIXES if (path := folder / f"{METADATA}{suffix}").is_file()]
    if len(found) > 1:
        raise UserError(f"{found[0]} and {found[1].name} could both describe the images: remove one of the files")
    return found[0] if found else None


def _label_roles(path: Path, content: PostRows, names: Mapping[str, str]) -> tuple[str, str]:
    """Return the roles of the columns with the text label and the image label, and check that all needed columns exist.

    Raises:
        UsageError: a column is missing, or the labels could be in `label` or in a pair of columns.
    """
    present = content.columns.keys()
    if missing := [role for role in ("image", "text") if role not in present]:
        raise _missing(path, content, missing)
    pair = [role for role in _LABEL_PAIR if role in present]
    if "label" in present and pair:
        given = names.keys() & {"label", *_LABEL_PAIR}
        if not given or given > {"label"}:
            raise UsageError(
                f"{path} has columns for label and for {' and '.join(pair)}: choose with --column label="
                f"{content.columns['label']}, or with --column {pair[0]}={content.columns[pair[0]]}"
            )
        pair = pair if "label" not in given else []
    if not pair and "label" in present:
        return "label", "label"
    if len(pair) < len(_LABEL_PAIR):
        raise _missing(path, content, [role for role in _LABEL_PAIR if role not in pair] if pair else ["label"])
    return _LABEL_PAIR


def _missing(path: Path, content: PostRows, roles: Sequence[str]) -> UsageError:
    options = " and ".join(f"--column {role}=NAME" for role in roles)
    columns = ", ".join([*content.columns.values(), *content.ignored])
    return UsageError(f"{path} has no column {' and no column '.join(roles)}: name it with {options}, of {columns}")


@dataclass(frozen=True)
class _RowReader:
    """The reader of a table's rows as posts."""

    table: _Table
    # The roles of the columns with the text label and the image label.
    label_roles: tuple[str, str]

    def read(self, rows: Sequence[PostRow], first: int, has_ids: bool) -> Iterator[_Candidate]:
        """Yield the rows. Without ids, the number of a row is its id, and `first` that of the first row."""
        for number, row in enumerate(rows, start=first):
            key = row.values.get("id", "") if has_ids else str(number)
            if row.fault:
                yield self._unusable(row, UNREADABLE)
            elif not key:
                yield self._unusable(row, "no id")
            else:
                yield self._candidate(key, row.values)

    def _unusable(self, row: PostRow, fault: str) -> _Candidate:
        place = f"{self.table.part}, {row.place}" if self.table.part else row.place
        return _Candidate(place, fault, SourcePost(Path(), "", ("", "")))

    def _candidate(self, key: str, values: Mapping[str, str]) -> _Candidate:
        image = self.table.path.parent / values.get("image", "")
        text_label, image_label = (values.get(role, "").lower() for role in self.label_roles)
        part = values.get("split", "") or self.table.part
        faults = [
            "an id that cannot name a file" if "/" in key or "\0" in key or len(key.encode()) > _MAX_ID_BYTES else "",
            # Unlike a method of Path, this is false for names that no file can have.
            "" if values.get("image") and os.path.isfile(image) else _image_fault(values),  # noqa: PTH113
            "" if text_label and image_label else "no label",
            "" if not part or part.lower() in _PART_OF else "an unknown split",
        ]
        post = SourcePost(
            image,
            values.get("text", ""),
            (text_label, image_label),
            part=_PART_OF.get(part.lower(), ""),
            group=values.get("group", ""),
        )
        return _Candidate(key, ", ".join(filter(None, faults)), post)


def _image_fault(values: Mapping[str, str]) -> str:
    return "a missing image file" if values.get("image") else "no image"


def _unique(candidates: Sequence[_Candidate]) -> tuple[dict[str, SourcePost], list[DroppedPost], int]:
    """Return the posts by id in numeric order, the rows that are left out, and the number of repeated rows."""
    by_id: defaultdict[str, list[_Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_id[candidate.id].append(candidate)
    posts, dropped, num_repeated = {}, [], 0
    for key in sorted(by_id, key=numeric_id_key):
        first, *others = by_id[key]
        if any(other != first for other in others):
            dropped += [DroppedPost(key, DOUBLED) for _ in by_id[key]]
            continue
        num_repeated += len(others)
        if first.fault:
            dropped.append(DroppedPost(key, first.fault))
        else:
            posts[key] = first.post
    return posts, dropped, num_repeated
