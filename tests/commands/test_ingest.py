import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from src.data.sample import make_sample
from src.ingest import main

POINTS_AT_SAMPLE = "deps:\n- path: sample\nouts:\n- path: data\n"


def ingest(path: Path | str) -> Result:
    return CliRunner().invoke(main, [str(path)])


def write_sample(root: Path, seed: int = 7) -> Path:
    for name, content in make_sample(seed).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose data/ was never made, so that DVC has nothing to say yet."""
    root = tmp_path / "repository"
    (root / ".dvc").mkdir(parents=True)
    monkeypatch.chdir(root)
    (root / "data.dvc").write_text(POINTS_AT_SAMPLE)
    return root


def test_it_points_data_dvc_at_a_folder_outside_by_its_whole_path(repository: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "my downloads" / "MVSA_Single")
    result = ingest("../my downloads")
    assert result.exit_code == 0, result.output
    assert yaml.safe_load(Path("data.dvc").read_text()) == {
        "deps": [{"path": f"{tmp_path}/my downloads/MVSA_Single"}],
        "outs": [{"path": "data"}],
    }
    assert "120 posts, 120 complete" in result.stdout
    assert "annotators a post: 1; posts without a majority: 0\n" in result.stdout
    assert "agreement: 29 negative, 19 neutral, 57 positive" in result.stdout
    assert result.stdout.endswith("next: dvc repro\n")


def test_it_points_at_a_folder_inside_by_its_relative_path(repository: Path) -> None:
    write_sample(repository / "other")
    assert ingest(repository / "other").exit_code == 0
    assert Path("data.dvc").read_text().startswith("deps:\n- path: other\n")


def test_the_same_folder_again_changes_nothing(repository: Path) -> None:
    write_sample(repository / "sample")
    before = Path("data.dvc").stat()
    result = ingest("sample")
    assert "points already at sample" in result.stdout
    after = Path("data.dvc").stat()  # reading it may change its time of access
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_frozen_import_is_thawed(repository: Path) -> None:
    write_sample(repository / "sample")
    Path("data.dvc").write_text(f"frozen: true\n{POINTS_AT_SAMPLE}")
    assert "now points at sample" in ingest("sample").stdout
    assert Path("data.dvc").read_text() == POINTS_AT_SAMPLE


def empty_out(root: Path) -> None:
    shutil.rmtree(root / "data")


def lose_captions(root: Path) -> None:
    for path in (root / "data").glob("*.txt"):
        path.unlink()


def spoil_a_row(root: Path) -> None:
    (root / "labelResultAll.txt").write_text("ID\ttext,image\n1\tgood,bad\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (empty_out, "has no data/, and no folder in it has both"),
        (lose_captions, "has no complete post (label row with a majority, image and caption): 120 have no caption"),
        (spoil_a_row, "line 2: found '1\\tgood,bad', expected ID<TAB>text,image"),
        (shutil.rmtree, "is no folder"),
    ],
)
def test_a_folder_that_will_not_do_leaves_data_dvc_alone(
    repository: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(write_sample(tmp_path / "download"))
    result = ingest(tmp_path / "download")
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert Path("data.dvc").read_text() == POINTS_AT_SAMPLE


def test_data_cannot_be_imported_from_itself(repository: Path) -> None:
    write_sample(repository / "data")
    assert "give the folder that they come from" in ingest("data").stderr


def test_a_data_dvc_in_conflict_is_refused(repository: Path) -> None:
    write_sample(repository / "other")
    Path("data.dvc").write_text("<<<<<<< ours\ndeps:\n- path: a\n=======\n")
    result = ingest("other")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "data.dvc is not YAML" in result.stderr


def test_elsewhere_than_at_the_root_it_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "run commands from the repository's root" in ingest(write_sample(tmp_path / "download")).stderr
    assert not Path("data.dvc").exists()


def dvc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, capture_output=True)


def test_dvc_repro_imports_what_was_pointed_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo_root: Path
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
    dvc("init", "--no-scm")

    dvc("repro")
    assert labels.read_bytes() == Path("sample/labelResultAll.txt").read_bytes()
    assert Path("data.dvc").read_text() == committed, "regenerate data.dvc: it does not know the committed sample"

    other = write_sample(tmp_path / "two words" / "MVSA-Single", seed=8)
    assert ingest(other.parent).exit_code == 0
    assert ingest("sample").exit_code == 0, "data/ is unchanged, though it is not what data.dvc points at"
    assert ingest(other).exit_code == 0
    dvc("repro")
    assert Path("out").read_bytes() == labels.read_bytes() == (other / "labelResultAll.txt").read_bytes()

    mine = Path("data/data") / caption.name
    mine.write_text("written by hand")
    result = ingest("sample")
    assert result.exit_code == 1
    assert "data/ was changed by hand, and `dvc repro` would delete the changes" in result.stderr
    assert mine.read_text() == "written by hand"

    shutil.rmtree("data")
    assert ingest("sample").exit_code == 0
    dvc("repro")
    assert labels.read_bytes() == Path("sample/labelResultAll.txt").read_bytes()
    assert Path("data.dvc").read_text() == committed
