import re
from pathlib import Path

import pytest

from src.core.errors import UserError
from src.data.mvsa_labels import HEADER, LABEL_FILE, REPEATED, RESPELT, header, read_labels


def write(folder: Path, *rows: str, first: str = header(1)) -> Path:
    path = folder / LABEL_FILE
    path.write_text("\n".join([first, *rows, ""]))
    return path


def test_header_has_columns_of_annotators() -> None:
    assert header(1) == "ID\ttext,image"
    assert header(3) == "ID\ttext,image\ttext,image\ttext,image"


def test_single_annotator_gives_labels(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path, "2\tpositive,neutral", "1\tnegative,negative"))
    assert labels.num_annotators == 1
    assert labels.pairs == {"2": ("positive", "neutral"), "1": ("negative", "negative")}
    assert labels.undecided == {}


@pytest.mark.parametrize(
    ("row", "pair"),
    [
        ("positive,neutral\tpositive,neutral\tpositive,neutral", ("positive", "neutral")),
        ("positive,neutral\tneutral,neutral\tpositive,negative", ("positive", "neutral")),
        ("positive,negative\tneutral,positive\tneutral,negative", ("neutral", "negative")),
    ],
)
def test_majority_decides_each_label(tmp_path: Path, row: str, pair: tuple[str, str]) -> None:
    labels = read_labels(write(tmp_path, f"1\t{row}", first=header(3)))
    assert (labels.num_annotators, labels.pairs, labels.undecided) == (3, {"1": pair}, {})


@pytest.mark.parametrize(
    ("annotators", "row", "reason"),
    [
        (3, "positive,neutral\tneutral,neutral\tnegative,neutral", "the text"),
        (3, "neutral,positive\tneutral,neutral\tneutral,negative", "the image"),
        (3, "positive,neutral\tneutral,positive\tnegative,negative", "the text and the image"),
        (2, "positive,neutral\tpositive,positive", "the image"),
        (4, "positive,neutral\tpositive,neutral\tneutral,neutral\tneutral,neutral", "the text"),
    ],
)
def test_half_is_no_majority(tmp_path: Path, annotators: int, row: str, reason: str) -> None:
    labels = read_labels(write(tmp_path, f"1\t{row}", first=header(annotators)))
    assert (labels.pairs, labels.undecided) == ({}, {"1": f"no majority for {reason}"})


@pytest.mark.parametrize(
    ("annotators", "row", "expected"),
    [
        (1, "3\tpositive", "ID<TAB>text,image"),
        (1, "3\tpositive,", "ID<TAB>text,image"),
        (1, "3\tpositive,neutral\tpositive,neutral", "ID<TAB>text,image"),
        (1, "3 positive,neutral", "ID<TAB>text,image"),
        (1, "\tpositive,neutral", "ID<TAB>text,image"),
        (1, "2\tneutral,neutral", "the labels of 2 in line 2: remove one"),
        (2, "3\tpositive,neutral", "ID<TAB>text,image<TAB>text,image"),
        (2, "3\tpositive,neutral\t\tpositive,neutral", "ID<TAB>text,image<TAB>text,image"),
        (2, "3" + "\tpositive,neutral" * 3, "ID<TAB>text,image<TAB>text,image"),
        (2, "3\tpositive,neutral\tpositive,neutral,neutral", "ID<TAB>text,image<TAB>text,image"),
        (2, "2\tneutral,neutral\tpositive,positive", "the labels of 2 in line 2: remove one"),
    ],
)
def test_bad_row_names_its_line(tmp_path: Path, annotators: int, row: str, expected: str) -> None:
    good = "\tpositive,positive" * annotators
    path = write(tmp_path, f"2{good}", "", row, f"4{good}", first=header(annotators))
    pattern = f"{LABEL_FILE}, line 4: found {re.escape(repr(row))}, expected .*{re.escape(expected)}"
    with pytest.raises(UserError, match=pattern):
        read_labels(path)


def test_repeated_row_counts_once(tmp_path: Path) -> None:
    undecided, decided = "2\tpositive,neutral\tneutral,neutral", "3\tpositive,neutral\tpositive,neutral"
    labels = read_labels(write(tmp_path, undecided, decided, undecided, decided, decided, first=header(2)))
    assert (labels.pairs, list(labels.undecided)) == ({"3": ("positive", "neutral")}, ["2"])
    assert +labels.variants == {REPEATED: 3}


def test_disagreeing_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 3: .* in line 2"):
        read_labels(
            write(
                tmp_path,
                "2\tpositive,neutral\tneutral,neutral",
                "2\tneutral,neutral\tpositive,neutral",
                first=header(2),
            )
        )


def test_case_and_spaces_are_counted(tmp_path: Path) -> None:
    rows = ["1\tPositive,NEUTRAL", " 2 \t negative , negative ", "3\tneutral,neutral", "3\tNeutral,neutral"]
    labels = read_labels(write(tmp_path, *rows, first="id\tText, Image"))
    assert labels.pairs == {"1": ("positive", "neutral"), "2": ("negative", "negative"), "3": ("neutral", "neutral")}
    assert +labels.variants == {HEADER: 1, RESPELT: 3, REPEATED: 1}


def test_regular_file_has_no_variants(tmp_path: Path) -> None:
    assert not +read_labels(write(tmp_path, "1\tpositive,neutral", "", "2\tneutral,neutral")).variants


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_spreadsheet_unicode_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / LABEL_FILE
    path.write_bytes("ID\ttext,image\r\n1\tpositive,neutral\r\n".encode(encoding))
    labels = read_labels(path)
    assert labels.pairs == {"1": ("positive", "neutral")}
    assert sum(labels.variants.values()) == 1


@pytest.mark.parametrize("first", ["", "ID", "ID\ttext", "ID\timage,text", "text,image", "ID\ttext,image\tlabel"])
def test_other_header_is_refused(tmp_path: Path, first: str) -> None:
    with pytest.raises(UserError, match=r"line 1: found .*, expected the header 'ID\\ttext,image', with a column"):
        read_labels(write(tmp_path, "1\tpositive,positive", first=first))


def test_harmless_bytes_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / LABEL_FILE
    path.write_bytes(b"\xef\xbb\xbfID\ttext,image\t\r\n2\tpositive,neutral\t\r\n")
    labels = read_labels(path)
    assert (labels.num_annotators, labels.pairs) == (1, {"2": ("positive", "neutral")})
