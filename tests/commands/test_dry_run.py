"""`tune --dry-run`: what a search would take at the published size, from params.yaml and the model files alone."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from src.cli.output import console
from src.core.records import write_split
from src.tune import main


@pytest.fixture
def bare(repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nothing in it but params.yaml; the console is made anew for the stream of each run."""
    (tmp_path / "params.yaml").write_text((repo_root / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    console.cache_clear()
    return tmp_path


def tune(*words: str) -> Result:
    result = CliRunner().invoke(main, words)
    console.cache_clear()
    return result


def test_it_needs_nothing_but_params_and_leaves_nothing(bare: Path) -> None:
    result = tune("--model", "clip", "--scale", "full", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "openai/clip-vit-base-patch32" in result.stdout
    for figure in ("151,277,313", "61,440", "an epoch of 1,555 posts", "2,592 posts", "It fits 32 GiB"):
        assert figure in result.stdout
    assert [path.name for path in bare.iterdir()] == ["params.yaml"]


def test_it_takes_the_division_of_the_posts_where_there_is_one(bare: Path) -> None:
    write_split(bare / "outputs" / "split" / "split.csv", {"1": "train", "2": "train", "3": "val", "4": "test"})
    result = tune("--model", "clip", "--scale", "full", "--dry-run", "--memory-gib", "0.01")
    assert "an epoch of 2 posts" in result.stdout
    assert "4 posts" in result.stdout
    assert "It does not fit 0.01 GiB" in result.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dry-run"], "a dry run is --dry-run --scale full"),
        (["--scale", "full"], "a search takes params.yaml's scale"),
        (["--memory-gib", "32"], "a dry run is --dry-run --scale full"),
        (["--dry-run", "--scale", "full", "--trials", "3"], "a dry run is --dry-run --scale full"),
        (["--dry-run", "--scale", "tiny"], "'tiny' is not 'full'"),
        (["--dry-run", "--scale", "full", "--memory-gib", "0"], "0.0 is not in the range"),
    ],
)
def test_misuse_is_one_line(bare: Path, words: list[str], said: str) -> None:
    result = tune("--model", "clip", *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert not result.stdout
