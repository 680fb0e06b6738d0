"""Posts that users bring along, whole and in halves."""

import shutil
from pathlib import Path

import pytest

from src.core.errors import Refusal
from src.data.asked import Asked, read_csv, read_folder


@pytest.fixture
def picture(repo_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(repo_root / "sample" / "data" / "1.jpg", tmp_path / "a.jpg"))


def test_a_folder_pairs_pictures_and_captions_by_their_names(picture: Path, tmp_path: Path) -> None:
    shutil.copy(picture, tmp_path / "b.JPG")
    (tmp_path / "a.txt").write_text("what a day\r\n")
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    (tmp_path / "notes.md").write_text("not a post")
    (tmp_path / "d.jpg").mkdir()
    found = read_folder(tmp_path)
    assert found == [
        Asked("a", tmp_path / "a.jpg", "what a day"),
        Asked("b", tmp_path / "b.JPG", ""),
        Asked("c", None, "café"),
    ]
    assert [post.missing for post in found] == ["", "text", "image"]


def test_a_csv_names_pictures_from_its_own_folder(picture: Path, tmp_path: Path) -> None:
    table = tmp_path / "posts.csv"
    rows = ["image,text,label,more", 'a.jpg,"a, b",positive,1', ",only words,,", "a.jpg,,neutral,"]
    table.write_text("\n".join(rows), encoding="utf-8-sig")
    assert read_csv(table) == [
        Asked("a.jpg", picture, "a, b", "positive"),
        Asked("line 3", None, "only words"),
        Asked("a.jpg", picture, "", "neutral"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("picture,caption\na.jpg,b\n", "of the columns image, text at least one is needed"),
        ("image,text\n", "has no rows"),
        ("", "of the columns image, text at least one is needed"),
        ("text,label\na,happy\n", "line 2: unknown tone 'happy'"),
        ("text\n" + "a" * 200_000, "is no CSV in UTF-8: field larger than field limit"),
    ],
)
def test_a_csv_that_is_no_table_of_posts_is_refused(tmp_path: Path, content: str, message: str) -> None:
    table = tmp_path / "posts.csv"
    table.write_text(content)
    with pytest.raises(Refusal, match=message):
        read_csv(table)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="holds no pictures"):
        read_folder(tmp_path)


def test_what_cannot_be_judged_says_why(picture: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    assert Asked("x", tmp_path / "broken.jpg", "words").problem.startswith("the image is no readable JPEG")
    assert Asked("x", tmp_path / "gone.jpg", "words").problem.startswith("the image is not there")
    assert Asked("x", None, " ").problem == "it has neither picture nor caption"
    assert Asked("x", picture, "").problem == ""
    assert Asked("x", None, "words").problem == ""
