"""The command `predict` on real files: every post gets a row, and no input file is overwritten."""

import shutil
from pathlib import Path

import pytest

from src.core.files import read_table
from src.core.labels import TONES
from tests.registry.conftest import MODEL, run

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(repository: Path, repo_root: Path, tmp_path: Path) -> Path:
    """A folder with a picture, where the champion of the repository is asked."""
    shutil.copy(repo_root / "sample" / "data" / "1.jpg", tmp_path / "a.jpg")
    return tmp_path


def predict(source: Path, *words: str, code: int = 0) -> str:
    return run("predict", "--model", MODEL, str(source), *words, code=code).output


def test_every_post_gets_row(folder: Path) -> None:
    rows = [f"a.jpg,day {number},positive" for number in range(2, 40)]
    rows[20:20] = ["a.jpg," + "a" * 20_000 + ",neutral", "", "gone.jpg,so,", "a.jpg,so,happy"]
    (folder / "posts.csv").write_text("\n".join(["image_path,caption,label,place", *rows]))
    said = predict(folder / "posts.csv", "--out", str(folder / "tones.csv"))
    answers = read_table(folder / "tones.csv")
    assert len(answers) == 41
    assert [(place, row["problem"]) for place, row in enumerate(answers) if not row["tone"]] == [
        (20, "the text has 20,000 characters, and 10,000 are allowed"),
        (21, "the image cannot be read (No such file or directory)"),
    ]
    assert "happy" in answers[22]["problem"] and answers[22]["tone"] in TONES
    assert "columns that are not read: place" in said and "38 posts with a label" in said
    assert sum(float(answers[40][tone]) for tone in TONES) == pytest.approx(1, abs=1e-4)


def test_unwritable_output_fails_before_loading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from src.registry import registry

    monkeypatch.setattr(registry, "load", lambda _: pytest.fail("a version was loaded"))
    table = folder / "posts.csv"
    table.write_text("image,text\na.jpg,so\n")
    (folder / "a.txt").write_text("so")
    (folder / "link.csv").symlink_to(table)
    (folder / "full").mkdir()
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for source, out in (
        (table, "posts.csv"),
        (table, "link.csv"),
        (table, "a.jpg"),
        (table, "full"),
        (folder, "a.txt"),
    ):
        assert predict(source, "--out", str(folder / out), code=2).count("\n") == 1
    for out in ("a.jpg/tones.csv", "n" * 300 + ".csv"):
        assert predict(table, "--out", str(folder / out), code=1).count("\n") == 1
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["caf\udce9"], "CAPTION"),
        (["so", "--column", "text=words"], "--column"),
        (["so", "--column", "words"], "--column"),
    ],
)
def test_misuse_exits_with_2(folder: Path, words: list[str], said: str) -> None:
    output = predict(folder / "a.jpg", *words, code=2)
    assert said in output and output.count("\n") == 1
