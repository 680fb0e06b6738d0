"""A repository in which all stages before `tune` have run, for one small model."""

import shutil
from pathlib import Path

import pytest

from tests.search.warm import WarmCommand
from tests.warm import WarmPython


@pytest.fixture
def repository(encoded: Path, repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy that repository and make it the working folder."""
    folder = tmp_path / "repository"
    shutil.copytree(encoded, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(repo_root))
    return folder


@pytest.fixture
def warm(warm_python: WarmPython) -> WarmCommand:
    """Run `tune` in processes of its own that start quickly."""
    return WarmCommand(warm_python)
