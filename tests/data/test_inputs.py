"""Posts that users bring along, whole and in halves."""

import os
import shutil
from pathlib import Path

import pytest

from src.core.errors import UsageError, UserError
from src.data.images import placeholder
from src.data.inputs import InputPost, read_folder, read_table


@pytest.fixture
def picture(repo_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(repo_root / "sample" / "data" / "1.jpg", tmp_path / "a.jpg"))


def write(folder: Path, content: str) -> Path:
    table = folder / "posts.csv"
    table.write_text(content, newline="")
    return table


def test_folder_pairs_files_by_name(picture: Path, tmp_path: Path) -> None:
    shutil.copy(picture, tmp_path / "b.JPG")
    (tmp_path / "a.txt").write_text("what a day\r\n")
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    (tmp_path / "notes.md").write_text("not a post")
    (tmp_path / "._a.jpg").write_text("what some archives leave behind")
    (tmp_path / "d.jpg").mkdir()
    listing = read_folder(tmp_path)
    assert listing.posts == (
        InputPost("a", tmp_path / "a.jpg", "what a day"),
        InputPost("b", tmp_path / "b.JPG", ""),
        InputPost("c", None, "café"),
    )
    assert [post.missing for post in listing.posts] == ["", "text", "image"]
    assert listing.ignored == ("d.jpg", "notes.md")
    assert listing.files == {tmp_path / name for name in ("a.jpg", "a.txt", "b.JPG", "c.txt")}


def test_images_of_one_name_stay_separate(picture: Path, tmp_path: Path) -> None:
    shutil.copy(picture, tmp_path / "a.JPG")
    shutil.copy(picture, tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("what a day")
    posts = read_folder(tmp_path).posts
    assert [(post.id, post.image, post.text) for post in posts] == [
        (name, tmp_path / name, "what a day") for name in ("a.JPG", "a.jpg", "a.png")
    ]


def test_two_captions_are_a_fault(picture: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "a.TXT").write_text("other")
    (post,) = read_folder(tmp_path).posts
    with pytest.raises(UserError, match=r"its caption could be a\.TXT or a\.txt"):
        post.read()


def test_file_names_are_made_printable(picture: Path, tmp_path: Path) -> None:
    picture.rename(tmp_path / os.fsdecode(b"caf\xe9.jpg"))
    (post,) = read_folder(tmp_path).posts
    assert post.id == "caf\N{REPLACEMENT CHARACTER}"
    assert post.read().startswith(b"\xff\xd8")


def test_csv_paths_start_at_its_folder(picture: Path, tmp_path: Path) -> None:
    table = tmp_path / "posts.csv"
    rows = ["image,text,label,more", 'a.jpg,"a, b",positive,1', ",only words,,", "a.jpg,,neutral,"]
    table.write_text("\n".join(rows), encoding="utf-8-sig")
    listing = read_table(table)
    assert listing.posts == (
        InputPost("a.jpg", picture, "a, b", "positive"),
        InputPost("line 3", None, "only words"),
        InputPost("a.jpg", picture, "", "neutral"),
    )
    assert listing.ignored == ("more",)
    assert listing.files == {table, picture}


@pytest.mark.parametrize(
    "content",
    [
        "image_path,caption\na.jpg,so\n",
        "Picture , TEXT\na.jpg,so\n",
        "caption;image\nso;a.jpg\n",
        "image\ttext\na.jpg\tso\n",
        "\n\nimage,text\r\n\r\na.jpg,so,,\r\n",
    ],
)
def test_usual_columns_are_found(content: str, tmp_path: Path) -> None:
    (post,) = read_table(write(tmp_path, content)).posts
    assert (post.id, post.image, post.text, post.fault) == ("a.jpg", tmp_path / "a.jpg", "so", "")


def test_given_columns_are_used(tmp_path: Path) -> None:
    table = write(tmp_path, "id,Tweet,text,file,Sentiment\n7,so,no,a.jpg, Positive\n")
    listing = read_table(table, {"text": "Tweet", "image": "file", "label": "Sentiment"})
    assert listing.posts == (InputPost("7", tmp_path / "a.jpg", "so", "Positive"),)
    assert listing.ignored == ("text",)


def test_rows_have_line_numbers(tmp_path: Path) -> None:
    table = write(tmp_path, 'text\none\n\n\n"two\nlines"\n\nthree\n')
    assert [(post.id, post.text) for post in read_table(table).posts] == [
        ("line 2", "one"),
        ("line 5", "two\nlines"),
        ("line 8", "three"),
    ]


def test_unreadable_row_gives_reason(tmp_path: Path) -> None:
    long = "a" * 200_000
    table = write(tmp_path, f"text,label\none, two,positive\n{long},\nso,happy\n")
    cut, longest, stray = read_table(table).posts
    with pytest.raises(UserError, match="line 2 has 3 cells, and the header 2"):
        cut.read()
    assert longest.text == long
    assert (stray.label, stray.text) == ("happy", "so")
    assert longest.fault == stray.fault == ""


@pytest.mark.parametrize(
    ("content", "names", "error", "message"),
    [
        ("photo,words\na.jpg,b\n", {}, UsageError, "has the columns photo, words"),
        ("", {}, UsageError, "has the columns none"),
        ("text,caption\na,b\n", {}, UsageError, "the text could be in text or caption"),
        ("text,text\na,b\n", {}, UsageError, "2 columns named text: rename"),
        ("Text,text,text\na,b,c\n", {}, UsageError, "the text could be in Text or text:"),
        ("text,other\na,b\n", {"text": "others"}, UsageError, "unknown column 'others'; did you mean 'other'"),
        ("image,text\n", {}, UserError, "has no rows"),
        ('text\nso\n"no end\nso\n', {}, UserError, "after line 2: unexpected end of data"),
    ],
)
def test_csv_without_posts_is_refused(
    tmp_path: Path, content: str, names: dict[str, str], error: type[UserError], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_table(write(tmp_path, content), names)


def test_guessed_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "posts.csv").write_bytes(b"text\ncaf\xe9\n")
    listing = read_table(tmp_path / "posts.csv")
    assert (listing.posts[0].text, listing.encoding) == ("café", "cp1252")


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no images"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken.jpg", "^the image is no readable JPEG"),
        ("gone.jpg", "^the image cannot be read"),
        ("folder.jpg", "^the image cannot be read"),
        ("nul\0.jpg", "^the image cannot be read"),
        ("n" * 300, "^the image cannot be read"),
    ],
)
def test_unreadable_image_gives_reason(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(UserError, match=message):
        InputPost("x", tmp_path / name, "words").read()


def test_one_half_of_post_is_enough(picture: Path) -> None:
    assert InputPost("x", picture, "").read() == picture.read_bytes()
    assert InputPost("x", None, "words").read() == placeholder()
    with pytest.raises(UserError, match="neither image nor caption"):
        InputPost("x", None, " ").read()
