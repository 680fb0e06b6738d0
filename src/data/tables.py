"""Tables in the formats of spreadsheets and data sets: CSV, TSV, JSON Lines and Parquet."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.core.errors import UsageError, UserError
from src.core.files import cells_of_any_length
from src.data import encodings

if TYPE_CHECKING:
    from pyarrow import Scalar

_DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    # The place of the row in the file, such as "line 3".
    place: str
    # The cells in the order of the header; None for a damaged text and for a value that is neither text nor number. A
    # short row of a CSV has fewer.
    cells: Sequence[str | None]
    # The reason why the row cannot be read; empty without one.
    fault: str = ""


@dataclass(frozen=True)
class Table:
    """The rows of a table that are not blank."""

    header: Sequence[str]
    rows: Sequence[Row]
    # The encoding of the text, from `encodings.decode`.
    encoding: str


def read_table(path: Path) -> Table:
    """Read a table whole. Its suffix gives the format, and the header of a CSV or TSV shows what separates the cells.

    Raises:
        UsageError: the suffix is not in `SUFFIXES`.
        UserError: the file is not in its format.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise UsageError(f"{path} is no table ({', '.join(SUFFIXES)}): save it as one of these")
    return read(path)


def _read_delimited(path: Path) -> Table:
    text, encoding = _decode(path)
    first_line = io.StringIO(text.lstrip("\r\n"), newline="").readline()
    delimiter = max(_DELIMITERS, key=first_line.count)
    line = 1
    try:
        with cells_of_any_length():
            numbered = _numbered(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
            header = [cell.strip() for cell in next(numbered, (1, []))[1]]
            rows = []
            for line, cells in numbered:
                rows.append(_delimited_row(line, cells, len(header)))
    except csv.Error as error:
        raise UserError(f"{path}, after line {line}: {error}; check the quotes") from error
    return Table(header, rows, encoding)


def _numbered(reader: Iterable[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, with the number of their first line."""
    line = 1
    for cells in reader:
        if cells:
            yield line, cells
        line = reader.line_num + 1  # type: ignore[attr-defined]


def _delimited_row(line: int, cells: Sequence[str], width: int) -> Row:
    fault = ""
    if any(cell.strip() for cell in cells[width:]):
        fault = f"line {line} has {len(cells)} cells, and the header {width}: quote a text that holds delimiters"
    return Row(f"line {line}", cells, fault)


def _read_json_lines(path: Path) -> Table:
    text, encoding = _decode(path)
    # Other line ends than newlines may stand in strings of JSON.
    lines = {f"line {number}": line for number, line in enumerate(text.split("\n"), start=1) if line.strip()}
    records = {place: _json_object(line) for place, line in lines.items()}
    header = list(dict.fromkeys(name for record in records.values() for name in record or {}))
    rows = [
        Row(place, [_cell(record.get(name)) for name in header])
        if record is not None
        else Row(place, [], f"{place} is no JSON object")
        for place, record in records.items()
    ]
    return Table(header, rows, encoding)


def _json_object(line: str) -> Mapping[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _read_parquet(path: Path) -> Table:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            content = file.read()
    except (ArrowException, OSError) as error:
        raise UserError(f"{path} is no readable Parquet file: {error}") from error
    rows = zip(*([_parquet_cell(value) for value in column] for column in content.columns), strict=True)
    return Table(
        content.column_names,
        [Row(f"row {number}", cells) for number, cells in enumerate(rows, start=1)],
        encodings.UTF_8,
    )


def _parquet_cell(value: "Scalar") -> str | None:
    try:
        return _cell(value.as_py())
    except (ValueError, OverflowError):
        # A text that is not UTF-8, or a value that Python cannot hold, such as a time in the year 10000.
        return None


def _cell(value: object) -> str | None:
    """Return a value as text: empty for a missing one, None for one that is neither text nor number."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        # Whole numbers become fractional in a column that lacks some.
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    # JSON can escape halves of a character, which no file can hold.
    return value if isinstance(value, str) and _is_utf_8(value) else None


def _is_utf_8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _decode(path: Path) -> tuple[str, str]:
    text, encoding = encodings.decode(path.read_bytes())
    if encoding not in (*encodings.CERTAIN, *encodings.GUESSED):
        raise UserError(f"{path} is {encoding}: save it as UTF-8")
    return text, encoding


_READERS: Mapping[str, Callable[[Path], Table]] = {
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
SUFFIXES = tuple(_READERS)
