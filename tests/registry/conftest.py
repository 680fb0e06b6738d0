"""A repository in which the pipeline has run for one small model, up to a registered version of it."""

import shutil
from pathlib import Path

import pytest

from tests.pipeline import DATA_MD5, MODEL, STORE, git, run, store_in

__all__ = ["DATA_MD5", "MODEL", "STORE", "git", "run", "store_in"]


@pytest.fixture
def repository(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository as it was made, to be read."""
    monkeypatch.chdir(made)
    monkeypatch.setenv(STORE, store_in(made))
    return made


@pytest.fixture
def own(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to be spoiled. Its mlruns/ was moved, as one that came from elsewhere."""
    folder = tmp_path / "repository"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv(STORE, store_in(folder))
    return folder


@pytest.fixture(scope="session")
def downloaded(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The version's own files, downloaded; tests that change something copy them."""
    return download(made, tmp_path_factory.mktemp("downloaded"))


def download(made: Path, folder: Path) -> Path:
    """Download the champion's files to a folder. A process that loads them adds bytecode there."""
    from src.registry import registry

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        patch.setenv(STORE, store_in(made))
        _, version = registry.version_at(f"models:/mvsa-{MODEL}@champion")
        return registry.download(version, folder)
