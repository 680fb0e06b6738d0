from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def repo_root() -> Path:
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_mvsa(repo_root: Path) -> Path:
    path = repo_root.parent / "shared" / "mvsa"
    if not path.is_dir():
        pytest.skip("the real MVSA-Single is not beside the repository")
    return path
