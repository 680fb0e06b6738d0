from dataclasses import dataclass
from pathlib import Path

import pytest

from src.core.errors import UsageError, UserError
from src.core.files import read_table
from src.core.records import Interval
from src.core.rows import read_rows, write_rows


@dataclass(frozen=True)
class Row:
    name: str
    posts: int
    score: Interval
    needed: int | None


ROWS = [Row("a", 3, Interval(0.5, 0.25, 0.75), 12), Row("", 0, Interval(1.0, None, None), None)]


def test_rows_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_rows(path, Row, ROWS)
    assert read_rows(path, Row) == ROWS
    assert list(read_table(path)[0]) == ["name", "posts", "score", "score_low", "score_high", "needed"]


def test_table_without_rows_keeps_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_rows(path, Row, [])
    assert read_rows(path, Row) == []
    assert path.read_text() == "name,posts,score,score_low,score_high,needed\n"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("name,score,score_low,score_high,needed\na,0.5,,,\n", "posts"),
        ("name,posts,score,score_low,score_high,needed\na,many,0.5,,,\n", "posts"),
        ("name,posts,score,score_low,score_high,needed\na,3,,,,\n", "score"),
    ],
)
def test_wrong_cell_is_refused(tmp_path: Path, text: str, wrong: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=wrong):
        read_rows(path, Row)


def test_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing"):
        read_rows(tmp_path / "rows.csv", Row)
