"""Stores lie beside the code, or in the repository that DVC copied."""

from pathlib import Path

import pytest

from src.core import paths
from src.core.paths import origin_of


def test_dvc_copy_uses_original_stores(tmp_path: Path) -> None:
    copies = tmp_path / ".dvc" / "tmp" / "exps"
    for copy in (copies / "tmpabc", copies / "standalone" / "tmpabc"):
        copy.mkdir(parents=True)
        assert origin_of(copy) == tmp_path.resolve()


def test_other_folders_have_own_stores(tmp_path: Path) -> None:
    other = tmp_path / "tmp" / "exps" / "mine"
    other.mkdir(parents=True)
    assert origin_of(other) == origin_of(tmp_path) == Path()


@pytest.mark.parametrize(
    ("url", "there"),
    [
        ("sqlite:///mlruns/mlflow.db", "sqlite:////origin/mlruns/mlflow.db"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("postgresql://host/studies", "postgresql://host/studies"),
    ],
)
def test_relative_database_is_in_original(url: str, there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ORIGIN", Path("/origin"))
    assert paths.at_origin(url) == there
