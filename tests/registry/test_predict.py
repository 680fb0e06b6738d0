"""The command `predict` on real files: every post gets a row, and no input file is overwritten."""

import shutil
from pathlib import Path

import pytest

from src.core.files import read_table
from src.core.labels import TONES
from src.registry.contract import VALIDATION_FILE
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
    assert [(place, row["problem"]) for place, row in enumerate(answers) if not row["predicted"]] == [
        (20, "the text has 20,000 characters, and 10,000 are allowed"),
        (21, "the image cannot be read (No such file or directory)"),
    ]
    assert "happy" in answers[22]["problem"] and answers[22]["predicted"] in TONES
    assert "columns that are not read: place" in said and "38 posts with a label" in said
    page = (folder / "tones.html").read_text()
    assert "posts.csv" in page and page.count("<li ") == 39 and page.count('src="a.jpg"') == 39
    assert sum(float(answers[40][tone]) for tone in TONES) == pytest.approx(1, abs=1e-4)


def test_wanted_accuracy_marks_posts_for_person(folder: Path) -> None:
    (folder / "posts.csv").write_text("image,text\na.jpg,so\ngone.jpg,so\n")
    said = predict(folder / "posts.csv", "--out", str(folder / "tones.csv"), "--no-page", "--accuracy", "0.999")
    assert "99.9%" in said and "mvsa-clip version 1" in said
    assert [row["review"] for row in read_table(folder / "tones.csv")] == ["yes", "yes"]
    assert not (folder / "tones.html").exists()


def test_version_without_validation_predictions_refuses_accuracy(
    folder: Path, downloaded: Path, tmp_path: Path, unasked: None
) -> None:
    version = tmp_path / "version"
    shutil.copytree(downloaded, version)
    (version / "artifacts" / "contract" / VALIDATION_FILE).unlink()
    words = (folder, "--out", str(folder / "tones.csv"), "--version", str(version), "--accuracy", "0.9")
    assert "validation" in predict(*words, code=1)
    assert not (folder / "tones.csv").exists()


def test_page_replaces_no_file_of_another_kind(folder: Path, unasked: None) -> None:
    (folder / "posts.csv").write_text("image,text\na.jpg,so\n")
    (folder / "tones.html").write_text("my own")
    (folder / "locked").mkdir()
    (folder / "locked").chmod(0o500)
    for words in (
        ["--out", "tones.csv"],
        ["--out", "new.csv", "--page", "new.csv"],
        ["--out", "new.html"],
        ["--out", "new.csv", "--page", "a.jpg"],
        ["--out", "new.csv", "--page", "posts.csv"],
        ["--out", "new.csv", "--page", "locked"],
    ):
        paths = [word if word.startswith("--") else str(folder / word) for word in words]
        assert predict(folder / "posts.csv", *paths, code=2).count("\n") == 1, words
    assert (folder / "tones.html").read_text() == "my own" and not (folder / "new.csv").exists()


def test_interrupted_prediction_writes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from src.registry import registry

    def interrupt(*_words: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "predict", interrupt)
    (folder / "tones.csv").write_text("of an earlier call")
    predict(folder, "--out", str(folder / "tones.csv"), code=130)
    assert (folder / "tones.csv").read_text() == "of an earlier call" and not (folder / "tones.html").exists()


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a version is loaded."""
    from src.registry import registry

    monkeypatch.setattr(registry, "load", lambda _: pytest.fail("a version was loaded"))


def test_unwritable_output_fails_before_loading(folder: Path, unasked: None) -> None:
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


def test_table_of_answers_is_a_file(folder: Path) -> None:
    assert "is a folder" in predict(folder, "--out", ".", code=2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["caf\udce9"], "CAPTION"),
        (["so", "--column", "text=words"], "--column"),
        (["so", "--column", "words"], "--column"),
        (["so", "--column", "text=a", "--column", "text=b"], "two columns"),
        (["so", "--accuracy", "0.9"], "--accuracy"),
        (["so", "--accuracy", "90"], "0.9"),
        (["so", "--accuracy", "nan"], "0.9"),
        (["so", "--page", "a.html"], "--page"),
    ],
)
def test_misuse_exits_with_2(folder: Path, words: list[str], said: str) -> None:
    output = predict(folder / "a.jpg", *words, code=2)
    assert said in output and output.count("\n") == 1
