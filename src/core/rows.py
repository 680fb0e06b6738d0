"""CSV tables of typed rows: one frozen dataclass a table, written and read by the names of its fields."""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from src.core.config_parser import build
from src.core.files import read_table, write_table
from src.core.records import Interval

T = TypeVar("T")


def write_rows(path: Path, kind: type[T], rows: Sequence[T]) -> None:
    """Write rows as CSV, numbers rounded. An `Interval` fills three columns: NAME, NAME_low and NAME_high."""
    columns = [column for name, hint in _hints(kind).items() for column in _columns(name, hint)]
    write_table(path, [_flat(row) for row in rows], columns)


def read_rows(path: Path, kind: type[T]) -> list[T]:
    """Read the rows that `write_rows` wrote.

    Raises:
        UserError: the file is missing.
        UsageError: a column is missing, or a value has another type.
    """
    hints = _hints(kind)
    return [
        build(kind, {name: _value(hint, name, row) for name, hint in hints.items()}, str(path))
        for row in read_table(path)
    ]


def _hints(kind: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _columns(name: str, hint: Any) -> tuple[str, ...]:
    return (name, f"{name}_low", f"{name}_high") if hint is Interval else (name,)


def _flat(row: Any) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        values = (value.value, value.low, value.high) if isinstance(value, Interval) else (value,)
        cells |= dict(zip(_columns(field.name, type(value)), values, strict=True))
    return cells


def _value(hint: Any, name: str, row: Mapping[str, str | None]) -> Any:
    """Return the value of one field from the cells of a row. A missing cell is None, which `build` refuses."""
    if hint is Interval:
        values = [_number(float, row.get(column)) for column in _columns(name, hint)]
        return dict(zip(("value", "low", "high"), values, strict=True))
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for kind in (int, float):
        if kind in kinds:
            return _number(kind, row.get(name))
    return row.get(name)


def _number(kind: type[int] | type[float], cell: str | None) -> float | str | None:
    if not cell:
        return None
    try:
        return kind(cell)
    except ValueError:
        return cell
