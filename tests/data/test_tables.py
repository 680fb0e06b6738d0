import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from src.core.errors import UsageError, UserError
from src.data.tables import read_table

HEADER = ["id", "text"]
ROWS = [["1", "café, née"], ["2", 'two\nlines; "quoted"\tand a tab']]


def delimited(delimiter: str, line_end: str = "\r\n") -> str:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, lineterminator=line_end).writerows([HEADER, *ROWS])
    return file.getvalue()


def json_lines() -> str:
    return "".join(json.dumps(dict(zip(HEADER, row, strict=True)), ensure_ascii=False) + "\n" for row in ROWS)


def write_parquet(path: Path, columns: Mapping[str, list[object] | pa.Array]) -> None:
    pq.write_table(pa.table(columns), path)


@pytest.mark.parametrize(
    ("name", "content", "encoding"),
    [
        ("a.csv", delimited(",").encode(), "utf-8"),
        ("a.CSV", delimited(";").encode("utf-8-sig"), "utf-8"),
        ("a.csv", delimited(";").encode("cp1252"), "cp1252"),
        ("a.csv", delimited("\t").encode("utf-16"), "utf-16"),
        ("a.csv", delimited("\t").encode("utf-16-le"), "utf-16 without a byte order mark"),
        ("a.tsv", delimited("\t", "\n").encode(), "utf-8"),
        ("a.jsonl", json_lines().encode(), "utf-8"),
        ("a.jsonl", json_lines().encode("utf-8-sig"), "utf-8"),
    ],
)
def test_texts_are_read_alike(name: str, content: bytes, encoding: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    table = read_table(tmp_path / name)
    assert (list(table.header), [list(row.cells) for row in table.rows]) == (HEADER, ROWS)
    assert table.encoding == encoding
    assert not any(row.fault for row in table.rows)


def test_parquet_is_read_alike(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"id": ["1", "2"], "text": [row[1] for row in ROWS]})
    table = read_table(tmp_path / "a.parquet")
    assert (list(table.header), [list(row.cells) for row in table.rows]) == (HEADER, ROWS)
    assert [row.place for row in table.rows] == ["row 1", "row 2"]


def test_values_become_text(tmp_path: Path) -> None:
    write_parquet(
        tmp_path / "a.parquet", {"a": [1, None], "b": [3.0, float("nan")], "c": [0.5, None], "d": [[1], None]}
    )
    assert [list(row.cells) for row in read_table(tmp_path / "a.parquet").rows] == [
        ["1", "3", "0.5", None],
        ["", "", "", ""],
    ]
    (tmp_path / "a.jsonl").write_text('{"a": 7, "b": "\\ud800"}\n{"b": {"bytes": ""}}\n\n{"a": "\u2028"}\n')
    assert [list(row.cells) for row in read_table(tmp_path / "a.jsonl").rows] == [
        ["7", None],
        ["", None],
        ["\u2028", ""],
    ]


def test_values_beyond_python_are_no_text(tmp_path: Path) -> None:
    damaged = pa.array([b"caf\xe9", b"so"]).view(pa.string())
    year_10000 = pa.array([253_402_300_800, None], pa.timestamp("s"))
    write_parquet(tmp_path / "a.parquet", {"id": ["1", "2"], "text": damaged, "time": year_10000})
    rows = read_table(tmp_path / "a.parquet").rows
    assert [list(row.cells) for row in rows] == [["1", None, None], ["2", "so", ""]]


def test_lines_that_are_no_objects_are_faults(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": "so"}\n[1]\n{"a"\n' + "[" * 100_000 + "\n")
    rows = read_table(tmp_path / "a.jsonl").rows
    assert [(row.place, bool(row.fault)) for row in rows] == [(f"line {n}", n > 1) for n in (1, 2, 3, 4)]


def damaged_utf_16(path: Path) -> None:
    path.with_suffix(".csv").write_bytes(delimited(",").encode("utf-16")[:-1])


def open_quote(path: Path) -> None:
    path.with_suffix(".tsv").write_text('a\tb\n1\t"no end\n')


def no_parquet(path: Path) -> None:
    path.with_suffix(".parquet").write_text("a,b\n")


@pytest.mark.parametrize("write", [damaged_utf_16, open_quote, no_parquet])
def test_file_in_no_format_is_refused(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "a")
    (path,) = tmp_path.iterdir()
    with pytest.raises(UserError, match=f"^{path}"):
        read_table(path)


def test_unknown_suffix_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.csv, \.tsv, \.jsonl, \.parquet"):
        read_table(tmp_path / "a.xlsx")
