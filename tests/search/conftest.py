"""A repository in which all stages before `tune` have run, for one small model."""

import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from src.services.store import open_store
from tests.search.warm import WarmCommand

MODEL = "clip"


@pytest.fixture(scope="session")
def encoded(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once; tests work in copies of it."""
    folder = tmp_path_factory.mktemp("encoded")
    shutil.copytree(repo_root / "sample", folder / "data")
    params = yaml.safe_load((repo_root / "params.yaml").read_text())
    params["models"] = [MODEL]
    params["fit"]["common"].update(epochs=2, batch_size=32)
    params["tune"].update(pruner="none")
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _run("prepare")
        _run("split")
        _run("encode", "--model", MODEL)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_store()
    return folder


@pytest.fixture
def repository(encoded: Path, repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, where the test runs."""
    folder = tmp_path / "repository"
    shutil.copytree(encoded, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(repo_root))
    return folder


@pytest.fixture(scope="session")
def warm(repo_root: Path) -> Iterator[WarmCommand]:
    """`tune` in processes of their own, quickly."""
    command = WarmCommand(repo_root)
    yield command
    command.close()


def _run(stage: str, *words: str) -> None:
    result = CliRunner().invoke(importlib.import_module(f"src.{stage}").main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
