import os
from pathlib import Path

import pytest

from src.core.files import atomic_file, atomic_folder, folder_digest


def fail(place: Path) -> None:
    place.write_text("new")
    raise RuntimeError


def test_atomic_file_replaces_the_old(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a.txt"
    for content in ("one", "two"):
        with atomic_file(path) as temporary:
            temporary.write_text(content)
    assert path.read_text() == "two" and list(path.parent.iterdir()) == [path]


def test_atomic_file_survives_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        fail(temporary)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_atomic_folder_replaces_the_old(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    for name in ("one", "two"):
        with atomic_folder(folder) as temporary:
            (temporary / name).write_text(name)
    assert [path.name for path in folder.iterdir()] == ["two"] and list(tmp_path.iterdir()) == [folder]


def test_atomic_folder_clears_what_a_kill_left(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    for suffix in ("", ".old"):
        left = tmp_path / f".a.{os.getpid()}{suffix}"
        left.mkdir()
        (left / "part").write_text("x")
    with atomic_folder(folder) as temporary:
        (temporary / "whole").write_text("x")
    assert list(tmp_path.iterdir()) == [folder] and (folder / "whole").exists()


def test_atomic_folder_survives_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    with pytest.raises(RuntimeError), atomic_folder(folder) as temporary:
        fail(temporary / "b")
    assert list(tmp_path.iterdir()) == [folder] and not list(folder.iterdir())


def test_folder_digest_covers_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a").write_bytes(b"x" * 3_000_000)
    digests = [folder_digest(folder)]
    (folder / "inner" / "a").write_bytes(b"x" * 2_999_999 + b"y")
    digests.append(folder_digest(folder))
    (folder / "inner" / "a").rename(folder / "b")
    digests.append(folder_digest(folder))
    assert len(set(digests)) == 3
    (folder / ".cache").mkdir()
    for hidden in (".lock", ".cache/times"):
        (folder / hidden).write_text("now")
    assert folder_digest(folder) == digests[-1]
