"""Repositories after stages of the pipeline, for one tiny model, built once for all test processes."""

import importlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from src.core.config import load_params
from src.core.locks import lock

MODEL = "clip"
TRIALS = 3
# MLflow caches stores by address, so every copy needs an address.
STORE = "MLFLOW_TRACKING_URI"
DATA_MD5 = "0123456789abcdef0123456789abcdef.dir"


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that `make` fills once, in this test process or another. No test may change it."""
    base = factory.getbasetemp()
    # The base folders of pytest-xdist's workers are siblings.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    marker = folder.with_suffix(".complete")
    with lock(folder.with_suffix(".lock")):
        if not marker.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            marker.touch()
    return folder


def run(command: str, *words: str, code: int = 0) -> Result:
    """Run a command of src/ in this process, in the current folder."""
    result = CliRunner().invoke(importlib.import_module(f"src.{command}").main, words, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def git(*words: str) -> str:
    settings = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    return subprocess.run(["git", *settings, *words], check=True, capture_output=True, text=True).stdout.strip()


def copy_tree(root: Path, folder: Path) -> None:
    """Copy the files of a repository that git knows or would take, without tests and DVC's lock."""
    for name in git("-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (root / name).is_file() and not name.startswith("tests/") and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, folder / name)


def store_in(folder: Path) -> str:
    return f"sqlite:///{folder}/mlruns/mlflow.db"


def as_written(value: Any) -> Any:
    """Return a value that equals numbers rounded as files round them, and sums of these."""
    return pytest.approx(value, abs=5e-6)


@contextmanager
def copied(source: Path, factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """Copy a repository, with a store of its own. The copy is the current folder within the context."""
    folder = factory.mktemp(name) / "repository"
    shutil.copytree(source, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv(STORE, store_in(folder))
        yield folder


def make_encoded(root: Path, folder: Path) -> None:
    """Run `prepare` and `split`, fill the cache as `frozen` does, and create an empty store."""
    from src.pipeline.encode import encode_model
    from src.tracking.store import open_store

    shutil.copytree(root / "sample", folder / "data")
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["models"] = [MODEL]
    params["training"]["common"].update(epochs=2, batch_size=32)
    params["tune"].update(pruner="none", trials=TRIALS)
    params["saliency"]["mistakes"] = 1
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv(STORE, store_in(folder))
        open_store()
        run("prepare")
        run("split")
        encode_model(load_params(), MODEL)


def make_registered(root: Path, encoded: Path, folder: Path) -> None:
    """Run the stages from `frozen` to `register`, in a git repository with the code. `printed/` holds their outputs."""
    shutil.copytree(encoded, folder, dirs_exist_ok=True)
    shutil.copytree(root / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data.dvc").write_text(yaml.safe_dump({"outs": [{"path": "data", "md5": DATA_MD5}]}))
    (folder / ".gitignore").write_text("/data\n/outputs/\n/mlruns/\n/printed/\n__pycache__/\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv(STORE, store_in(folder))
        git("init", "-q")
        git("add", "-A")
        git("commit", "-qm", "all")
        # One file to copy in place of hundreds.
        git("gc", "-q")
        Path("printed").mkdir()
        for stage in ("frozen", "tune", "train", "evaluate", "register"):
            Path("printed", stage).write_text(run(stage, "--model", MODEL).output)
