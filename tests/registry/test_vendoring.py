"""Copies of a package under unique names run their own code."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

from src.registry.vendoring import vendor


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for copies, on the path of modules for the time of a test."""
    place = tmp_path / "copies"
    place.mkdir()
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return place


def write_package(folder: Path, word: str) -> Path:
    package = folder / word / "src"
    (package / "core" / "__pycache__").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "core" / "__init__.py").touch()
    (package / "core" / "__pycache__" / "words.cpython-311.pyc").write_bytes(b"old")
    (package / "core" / "page.html.jinja").write_text("<p>{{ word }}</p>")
    (package / "core" / "words.py").write_text(f'"""Not\nfrom src/ but a word."""\nWORD = "{word}"\n')
    (package / "serve.py").write_bytes(
        b"from src import core\r\n\r\ndef say():\r\n    from src.core.words import WORD\r\n    return core and WORD\r\n"
    )
    return package


def test_copies_run_different_code(folder: Path, tmp_path: Path) -> None:
    names = [vendor(write_package(tmp_path, word), folder, "toy") for word in ("good", "bad")]
    first, second = (importlib.import_module(f"{name}.serve") for name in names)
    assert (first.say(), second.say()) == ("good", "bad")


def test_copies_modules_only_under_equal_name(folder: Path, tmp_path: Path) -> None:
    package = write_package(tmp_path, "good")
    name = vendor(package, folder, "toy")
    (package / "core" / "__pycache__" / "words.cpython-311.pyc").unlink()
    (tmp_path / "again").mkdir()
    assert vendor(package, tmp_path / "again", "toy") == name
    copied = {path.relative_to(folder / name).as_posix() for path in (folder / name).rglob("*") if path.is_file()}
    assert copied == {"__init__.py", "serve.py", "core/__init__.py", "core/words.py"}
    assert (folder / name / "serve.py").read_bytes().startswith(f"from {name} import core\r\n".encode())
    assert "from src/ but" in (folder / name / "core" / "words.py").read_text()


def test_project_copy_imports_only_itself(repo_root: Path, tmp_path: Path) -> None:
    name = vendor(repo_root / "src", tmp_path, "mvsa_tuner")
    files = list((tmp_path / name).rglob("*.py"))
    modules = [
        module
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for module in imported_by(node)
    ]
    assert len(files) == len(list((repo_root / "src").rglob("*.py")))
    assert {module for module in modules if module.split(".")[0] == "src"} == set()
    assert f"{name}.core.errors" in modules


def imported_by(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []
