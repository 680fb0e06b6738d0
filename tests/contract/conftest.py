"""A repository in which the pipeline has run for one small model, up to a registered version of it."""

import importlib
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

MODEL = "clip"
# MLflow keeps a store open by its address, so that each copy needs one of its own.
STORE = "MLFLOW_TRACKING_URI"
DATA_MD5 = "0123456789abcdef0123456789abcdef.dir"


def run(command: str, *words: str, code: int = 0) -> Result:
    """Run a command of src/ in this process, in the current folder."""
    result = CliRunner().invoke(importlib.import_module(f"src.{command}").main, words, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def git(*words: str) -> str:
    settings = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    return subprocess.run(["git", *settings, *words], check=True, capture_output=True, text=True).stdout.strip()


def store_in(folder: Path) -> str:
    return f"sqlite:///{folder}/mlruns/mlflow.db"


@pytest.fixture(scope="session")
def made(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once; tests that change something work in copies of it."""
    folder = tmp_path_factory.mktemp("registered") / "repository"
    folder.mkdir()
    shutil.copytree(repo_root / "sample", folder / "data")
    shutil.copytree(repo_root / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    params = yaml.safe_load((repo_root / "params.yaml").read_text())
    params["models"] = [MODEL]
    params["fit"]["common"].update(epochs=2, batch_size=32)
    params["tune"].update(pruner="none", trials=1)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "data.dvc").write_text(yaml.safe_dump({"outs": [{"path": "data", "md5": DATA_MD5}]}))
    (folder / ".gitignore").write_text("/data\n/outputs/\n/mlruns/\n__pycache__/\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv(STORE, store_in(folder))
        git("init", "-q")
        git("add", "-A")
        git("commit", "-qm", "all")
        for stage in ("prepare", "split"):
            run(stage)
        for stage in ("encode", "tune", "train", "evaluate", "register"):
            run(stage, "--model", MODEL)
    return folder


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
    from src.services import registry

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        patch.setenv(STORE, store_in(made))
        _, version = registry.version_at(f"models:/mvsa-{MODEL}@champion")
        return registry.download(version, tmp_path_factory.mktemp("downloaded"))
