import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from src.data.dvc_import import point_data_at
from src.data.sample import write_sample
from src.ingest import main
from tests.warm import WarmPython

POINTS_AT_SAMPLE = "deps:\n- path: sample\nouts:\n- path: data\n"


def ingest(path: Path | str) -> Result:
    return CliRunner().invoke(main, [str(path)])


def sample_in(root: Path, seed: int = 7) -> Path:
    write_sample(root, seed)
    return root


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a repository without data/."""
    root = tmp_path / "repository"
    (root / ".dvc").mkdir(parents=True)
    monkeypatch.chdir(root)
    (root / "data.dvc").write_text(POINTS_AT_SAMPLE)
    return root


def test_outside_folder_has_absolute_path(repository: Path, tmp_path: Path) -> None:
    sample_in(tmp_path / "my downloads" / "MVSA_Single")
    result = ingest("../my downloads")
    assert result.exit_code == 0, result.output
    assert yaml.safe_load(Path("data.dvc").read_text()) == {
        "deps": [{"path": f"{tmp_path}/my downloads/MVSA_Single"}],
        "outs": [{"path": "data"}],
    }
    assert "120 posts, 120 complete" in result.stdout
    assert "annotators a post: 1; posts without a majority: 0\n" in result.stdout
    assert "agreement: 29 negative, 19 neutral, 57 positive" in result.stdout
    assert "data.dvc now points at" in result.stdout


def test_inside_folder_has_relative_path(repository: Path) -> None:
    sample_in(repository / "other")
    assert ingest(repository / "other").exit_code == 0
    assert Path("data.dvc").read_text().startswith("deps:\n- path: other\n")


def test_same_folder_changes_nothing(repository: Path) -> None:
    sample_in(repository / "sample")
    before = Path("data.dvc").stat()
    assert not point_data_at(Path("sample")).changed
    after = Path("data.dvc").stat()  # reading it may change its time of access
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_frozen_import_is_thawed(repository: Path) -> None:
    sample_in(repository / "sample")
    Path("data.dvc").write_text(f"frozen: true\n{POINTS_AT_SAMPLE}")
    assert point_data_at(Path("sample")).changed
    assert Path("data.dvc").read_text() == POINTS_AT_SAMPLE


def remove_posts(root: Path) -> None:
    shutil.rmtree(root / "data")


def remove_captions(root: Path) -> None:
    for path in (root / "data").glob("*.txt"):
        path.unlink()


def write_bad_label(root: Path) -> None:
    (root / "labelResultAll.txt").write_text("ID\ttext,image\n1\tgood\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_posts, "has no data/"),
        (remove_captions, "120 have no caption"),
        (write_bad_label, "line 2: found '1\\tgood'"),
        (shutil.rmtree, "does not exist"),
    ],
)
def test_unusable_folder_leaves_data_dvc(
    repository: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(sample_in(tmp_path / "download"))
    result = ingest(tmp_path / "download")
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert Path("data.dvc").read_text() == POINTS_AT_SAMPLE


def test_name_that_dvc_cannot_store_is_refused(repository: Path, tmp_path: Path) -> None:
    root = sample_in(tmp_path / "download")
    Path(os.fsdecode(os.fsencode(root / "data") + b"/caf\xe9.txt")).write_text("stray")
    result = ingest(root)
    assert result.exit_code == 1 and "is not UTF-8" in result.stderr
    assert Path("data.dvc").read_text() == POINTS_AT_SAMPLE


def test_data_is_not_imported_from_itself(repository: Path) -> None:
    sample_in(repository / "data")
    result = ingest("data")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert Path("data.dvc").read_text() == POINTS_AT_SAMPLE


def test_conflicted_data_dvc_is_refused(repository: Path) -> None:
    sample_in(repository / "other")
    Path("data.dvc").write_text("<<<<<<< ours\ndeps:\n- path: a\n=======\n")
    result = ingest("other")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "data.dvc is not YAML" in result.stderr


def test_outside_of_root_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ingest(sample_in(tmp_path / "download")).exit_code == 1
    assert not Path("data.dvc").exists()


@pytest.mark.slow
def test_dvc_repro_imports_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo_root: Path, warm_python: WarmPython
) -> None:
    root = tmp_path / "clone"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    shutil.copytree(repo_root / "sample", "sample")
    committed = (repo_root / "data.dvc").read_text()
    Path("data.dvc").write_text(committed)
    Path("dvc.yaml").write_text(
        "stages:\n  look:\n    cmd: cp data/labelResultAll.txt out\n    deps: [data]\n    outs: [out]\n"
    )
    labels, caption = Path("data/labelResultAll.txt"), next(Path("sample/data").glob("*.txt"))
    dvc = partial(warm_python.run, root, "dvc")
    dvc("init", "--no-scm")

    dvc("repro")
    assert labels.read_bytes() == Path("sample/labelResultAll.txt").read_bytes()
    assert Path("data.dvc").read_text() == committed, "regenerate data.dvc: it does not know the committed sample"

    other = sample_in(tmp_path / "two words" / "MVSA-Single", seed=8)
    assert ingest(other.parent).exit_code == 0
    assert ingest("sample").exit_code == 0, "data/ is unchanged, though it is not what data.dvc points at"
    assert ingest(other).exit_code == 0
    dvc("repro")
    assert Path("out").read_bytes() == labels.read_bytes() == (other / "labelResultAll.txt").read_bytes()

    mine = Path("data/data") / caption.name
    mine.write_text("written by hand")
    result = ingest("sample")
    assert result.exit_code == 1
    assert "data/ was changed by hand" in result.stderr
    assert mine.read_text() == "written by hand"

    shutil.rmtree("data")
    assert ingest("sample").exit_code == 0
    dvc("repro")
    assert labels.read_bytes() == Path("sample/labelResultAll.txt").read_bytes()
    assert Path("data.dvc").read_text() == committed
