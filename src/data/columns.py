"""Columns of a table of posts: their roles, and the names under which they are recognised."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.core.errors import UsageError, UserError, unknown
from src.data import encodings
from src.data.tables import read_table

Names = Mapping[str, Sequence[str]]

# Names are in lower case. Hugging Face's image folders call the column of the image file_name.
INPUT_COLUMNS: Names = {
    "id": ("id",),
    "image": ("image", "image_path", "picture", "file_name", "image_file_name"),
    "text": ("text", "caption"),
    "label": ("label",),
}
LABELLED_COLUMNS: Names = {
    **INPUT_COLUMNS,
    "text_label": ("text_label",),
    "image_label": ("image_label",),
    "split": ("split",),
    "group": ("group",),
}


@dataclass(frozen=True)
class PostRow:
    """A row of a table of posts."""

    # The place of the row in the file, such as "line 3".
    place: str
    # The cells by role. Only a text keeps the spaces around it.
    values: Mapping[str, str]
    # The reason why the row cannot be read; empty without one.
    fault: str = ""


@dataclass(frozen=True)
class PostRows:
    """The rows of a table of posts."""

    rows: Sequence[PostRow]
    # The name of each column that is read, by role.
    columns: Mapping[str, str]
    # Names of columns that are not read.
    ignored: Sequence[str]
    encoding: str


def read_rows(path: Path, roles: Names, names: Mapping[str, str]) -> PostRows:
    """Read the columns that have one of `roles`.

    Args:
        path: a table in a format of `tables.SUFFIXES`.
        roles: the names under which the column of each role is recognised, in any letter case.
        names: the names of columns that the user gives, by role. They take the place of those in `roles`.

    Raises:
        UsageError: a column that the user gives is missing, two columns could have a role, or no column has one.
        UserError: the file is no table, or has no row.
    """
    table = read_table(path)
    places = _places(path, table.header, roles, names)
    if not places.keys() & {"image", "text"}:
        raise UsageError(
            f"{path} has the columns {', '.join(table.header) or 'none'}: name those of the posts with --column "
            "image=NAME and --column text=NAME; the first line of a CSV must be a header"
        )
    if not table.rows:
        raise UserError(f"{path} has no rows")
    rows = []
    for row in table.rows:
        cells = {role: row.cells[place] for role, place in places.items() if place < len(row.cells)}
        wrong = [table.header[places[role]] for role, cell in cells.items() if cell is None]
        fault = f"{row.place} has no text in {' and '.join(wrong)}" if wrong else row.fault
        rows.append(PostRow(row.place, {role: _value(role, cell or "") for role, cell in cells.items()}, fault))
    ignored = [name for place, name in enumerate(table.header) if place not in places.values()]
    columns = {role: table.header[place] for role, place in places.items()}
    return PostRows(rows, columns, ignored, table.encoding)


def _value(role: str, cell: str) -> str:
    return encodings.unify_lines(cell) if role == "text" else cell.strip()


def _places(path: Path, header: Sequence[str], roles: Names, names: Mapping[str, str]) -> dict[str, int]:
    """Return the place in the header of the column of each role that has one."""
    places = {}
    for role, known in roles.items():
        wanted = [names[role]] if role in names else known
        matches = [place for place, name in enumerate(header) if (name if role in names else name.casefold()) in wanted]
        if len(matches) > 1:
            different = dict.fromkeys(header[place] for place in matches)
            choice = " or ".join(different)
            if len(different) == 1:
                raise UsageError(f"{path} has {len(matches)} columns named {choice}: rename all but one of them")
            raise UsageError(f"{path}: the {role} could be in {choice}: choose with --column {role}=NAME")
        if role in names and not matches:
            raise unknown("column", names[role], header)
        if matches:
            places[role] = matches[0]
    return places
