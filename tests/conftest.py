import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from src.core.records import Post
    from src.models.base import ToneModel


@pytest.fixture(scope="session")
def repo_root() -> Path:
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_mvsa(repo_root: Path) -> Path:
    path = repo_root.parent / "shared" / "mvsa"
    if not path.is_dir():
        pytest.skip("the real MVSA-Single is not beside the repository")
    return path


@pytest.fixture(scope="session")
def posts(repo_root: Path) -> "list[Post]":
    """The posts of the committed sample that the agreement protocol labels."""
    from src.data.images import MAX_PIXELS
    from src.data.mvsa import read_folder, survey

    found = read_folder(survey(repo_root / "sample"), "agreement", MAX_PIXELS, lambda: None)
    return [post for post in found.posts if post.label]


@pytest.fixture(scope="session")
def tiny_model(posts: "list[Post]", tmp_path_factory: pytest.TempPathFactory) -> "Callable[[str], ToneModel]":
    """A model of the catalog by its name: made and loaded once a session, and each caller's own to spoil."""
    import torch

    from src.models.catalog import model_class, resolve

    torch.set_num_threads(1)
    folder, kept = tmp_path_factory.mktemp("checkpoints"), {}

    def own(name: str) -> "ToneModel":
        if name not in kept:
            checkpoint = resolve(name, "tiny", folder / name, [post.caption for post in posts])
            kept[name] = model_class(name).load(checkpoint, torch.device("cpu"), torch.float32)
        return copy.deepcopy(kept[name])

    return own
