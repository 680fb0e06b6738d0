import shutil
from collections import Counter
from pathlib import Path

import pytest

from src.core.errors import UsageError, UserError
from src.data.layouts import survey
from src.data.reading import SourcePost

HEADER = "id,image,text,text_label,image_label,split,group"


@pytest.fixture
def folder(repo_root: Path, tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(repo_root / "sample" / "data" / "1.jpg", tmp_path / "images" / name)
    return tmp_path


def write(folder: Path, *rows: str, header: str = HEADER, name: str = "posts.csv") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join([header, *rows, ""]))
    return folder / name


def reasons(path: Path) -> list[tuple[str, str]]:
    return [(post.id, post.reason) for post in survey(path).dropped]


def test_all_columns_are_read(folder: Path) -> None:
    index = survey(
        write(
            folder,
            "10,images/a.jpg,words,positive,Neutral,Dev,g",
            '9,images/b.jpg," two\r\nlines\n",negative,negative,,',
        )
    )
    assert list(index.posts.items()) == [
        ("9", SourcePost(folder / "images" / "b.jpg", " two\nlines", ("negative", "negative"))),
        ("10", SourcePost(folder / "images" / "a.jpg", "words", ("positive", "neutral"), part="val", group="g")),
    ]
    assert (index.num_annotators, index.dropped, index.variants) == (None, (), {})


def test_one_label_is_both(folder: Path) -> None:
    index = survey(write(folder, "images/a.jpg,so,Joy ", "images/a.jpg,,calm", header="file_name,caption,LABEL"))
    assert index.pairs == {"1": ("joy", "joy"), "2": ("calm", "calm")}
    assert index.posts["2"].caption == ""


def test_each_fault_leaves_its_row_out(folder: Path) -> None:
    path = write(
        folder,
        "1,images/a.jpg,so,positive,positive,,",
        "2,images/none.jpg,so,positive,positive,,",
        "3,,so,positive,positive,,",
        "4,images/a.jpg,so,positive,,,",
        "5,images/a.jpg,so,positive,positive,holdout,",
        ",images/a.jpg,so,positive,positive,,",
        "6,images/a.jpg,so, more,positive,positive,,g",
        "7/8,images/a.jpg,so,positive,positive,,",
        f"9,{'n' * 300}.jpg,so,,,,",
    )
    assert Counter(reasons(path)) == Counter(
        [
            ("2", "a missing image file"),
            ("3", "no image"),
            ("4", "no label"),
            ("5", "an unknown split"),
            ("line 7", "no id"),
            ("line 8", "an unreadable row"),
            ("7/8", "an id that cannot name a file"),
            ("9", "a missing image file, no label"),
        ]
    )
    assert survey(path).posts.keys() == {"1"}


def test_doubled_ids_are_left_out_unless_equal(folder: Path) -> None:
    path = write(
        folder,
        "1,images/a.jpg,so,positive,positive,,",
        "2,images/a.jpg,so,positive,positive,,",
        "1,images/a.jpg,so,negative,negative,,",
        "2,images/a.jpg,so,positive,positive,,",
    )
    index = survey(path)
    assert reasons(path) == [("1", "a doubled id")] * 2
    assert (set(index.posts), index.variants) == ({"2"}, {"rows repeated": 1})


def test_image_folder_names_parts(folder: Path) -> None:
    root = folder / "dataset"
    root.mkdir()
    for part in ("train", "validation", "test", "other"):
        write(root / part, "a.jpg,so,positive", header="file_name,text,label", name="metadata.csv")
        shutil.copy(folder / "images" / "a.jpg", root / part)
    (root / "test" / "metadata.csv").unlink()
    (root / "test" / "metadata.jsonl").write_text('{"file_name": "a.jpg", "text": "so", "label": "positive"}\n[]\n')
    index = survey(root)
    assert {(key, post.part, post.image) for key, post in index.posts.items()} == {
        ("1", "test", root / "test" / "a.jpg"),
        ("3", "train", root / "train" / "a.jpg"),
        ("4", "val", root / "validation" / "a.jpg"),
    }
    assert reasons(root) == [("test, line 2", "an unreadable row")]


def test_two_tables_of_a_folder_are_refused(folder: Path) -> None:
    for suffix in ("csv", "jsonl"):
        write(folder, name=f"metadata.{suffix}")
    with pytest.raises(UserError, match=r"metadata\.csv and metadata\.jsonl"):
        survey(folder)


@pytest.mark.parametrize(
    ("header", "names", "message"),
    [
        ("image,caption", {}, "no column label: name it with --column label=NAME, of image, caption"),
        ("text,label,tweet", {}, "no column image"),
        ("image,label", {}, "no column text"),
        ("image,text,image_label", {}, "no column text_label"),
        ("image,text,label,text_label,image_label", {}, "columns for label and for text_label and image_label"),
        ("image,text,caption,label", {}, "the text could be in text or caption"),
        ("image,text,tone", {"label": "tones"}, "unknown column 'tones'; did you mean 'tone'"),
    ],
)
def test_bad_columns_are_misuse(folder: Path, header: str, names: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        survey(write(folder, "a,b,c,d,e", header=header), names)


def test_given_columns_decide_between_labels(folder: Path) -> None:
    path = write(folder, "images/a.jpg,so,a,b,c", header="image,text,label,text_label,image_label")
    assert survey(path, {"label": "label"}).pairs == {"1": ("a", "a")}
    assert survey(path, {"text_label": "text_label"}).pairs == {"1": ("b", "c")}


def test_names_are_for_tables_alone(repo_root: Path) -> None:
    with pytest.raises(UsageError, match="--column"):
        survey(repo_root / "sample", {"text": "tweet"})
