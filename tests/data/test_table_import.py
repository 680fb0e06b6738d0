import csv
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from src.core.errors import UserError
from src.data.layouts import survey
from src.data.post_table import survey as survey_table
from src.data.table_import import is_import, write_import

# Imports a table, and kills itself at one call of the file system's functions.
KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from src.data import post_table, table_import

owner, name, last = {"write": (Path, "write_bytes", 3), "swap": (Path, "rename", 2)}[sys.argv[3]]
calls, original = 0, getattr(owner, name)

def counted(*arguments):
    global calls
    calls += 1
    if calls == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)

setattr(owner, name, counted)
table_import.write_import(post_table.survey(Path(sys.argv[1])), Path(sys.argv[2]), lambda: None)
"""


@pytest.fixture
def table(repo_root: Path, tmp_path: Path) -> Path:
    """A table of some posts of the sample, and of one without an image."""
    sample = survey(repo_root / "sample").posts
    rows = [(key, str(post.image), post.read_caption()[0], *post.pair) for key, post in list(sample.items())[:8]]
    path = tmp_path / "posts.csv"
    with path.open("w", newline="") as file:
        header = ("id", "image", "text", "text_label", "image_label")
        csv.writer(file).writerows([header, *rows, ("9000", "none.jpg", "", "joy", "joy")])
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def import_killed(table: Path, folder: Path, moment: str, root: Path) -> int:
    command = [sys.executable, "-c", KILLED, str(table), str(folder), moment]
    return subprocess.run(command, cwd=root, check=False).returncode


def test_import_reads_as_the_table(table: Path, tmp_path: Path) -> None:
    index = survey(table)
    ticks: list[int] = []
    write_import(index, tmp_path / "import", lambda: ticks.append(1))
    imported = survey(tmp_path / "import")
    for key, post in imported.posts.items():
        source = index.posts[key]
        assert post == replace(source, image=post.image)
        assert post.image.read_bytes() == source.image.read_bytes()
        assert post.image.is_relative_to(tmp_path / "import" / "images")
    assert list(imported.posts) == list(index.posts)
    assert imported.dropped == index.dropped != ()
    assert len(ticks) == 8


def test_second_import_replaces_the_first(table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "import"
    write_import(survey(table), folder, lambda: None)
    first = contents(folder)
    write_import(survey(table), folder, lambda: None)
    assert contents(folder) == first
    index = survey(table)
    write_import(replace(index, posts=dict(list(index.posts.items())[:2])), folder, lambda: None)
    assert len(survey(folder).posts) == 2
    assert sum(name.startswith("images/") for name in contents(folder)) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"import", "posts.csv"}


def test_other_folder_is_not_replaced(table: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").touch()
    with pytest.raises(UserError, match="photos exists"):
        write_import(survey(table), tmp_path / "photos", lambda: None)
    assert (tmp_path / "photos" / "mine.jpg").exists()


def test_unreadable_image_leaves_the_old_import(table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "import"
    write_import(survey(table), folder, lambda: None)
    before = contents(folder)
    index = survey(table)
    gone = {**index.posts, "10": replace(index.posts["10"], image=tmp_path)}
    with pytest.raises(OSError, match="directory"):
        write_import(replace(index, posts=gone), folder, lambda: None)
    assert contents(folder) == before
    assert {path.name for path in tmp_path.iterdir()} == {"import", "posts.csv"}


def test_killed_import_leaves_nothing_half_done(table: Path, tmp_path: Path, repo_root: Path) -> None:
    folder = tmp_path / "import"
    assert import_killed(table, folder, "write", repo_root) == -signal.SIGKILL
    assert not folder.exists()
    write_import(survey_table(table), folder, lambda: None)
    whole = contents(folder)
    assert import_killed(table, folder, "write", repo_root) == -signal.SIGKILL
    assert contents(folder) == whole
    assert import_killed(table, folder, "swap", repo_root) == -signal.SIGKILL
    assert not folder.exists(), "the old import is gone, and the new one is not in its place"
    write_import(survey_table(table), folder, lambda: None)
    assert is_import(folder)
    assert contents(folder) == whole


def test_image_names_keep_known_suffixes(table: Path, tmp_path: Path) -> None:
    index = survey(table)
    odd = tmp_path / "odd.JPG:large"
    odd.write_bytes(index.posts["1"].image.read_bytes())
    posts = {**index.posts, "1": replace(index.posts["1"], image=odd)}
    write_import(replace(index, posts=posts), tmp_path / "import", lambda: None)
    images = (tmp_path / "import" / "images").iterdir()
    assert {path.suffix for path in images} == {"", ".jpg"}
