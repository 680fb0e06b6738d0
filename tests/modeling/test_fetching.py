"""Covers: requests to the Hub while models are loaded, against a local replacement of the Hub."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from src.modeling.base import ToneModel
from src.models.catalog import model_class
from tests.hub import BIN, HUB_MODELS, WEIGHTS, fetch_models, other_requests, repository_folder, write_weights


@pytest.mark.slow
def test_only_pinned_commits_are_requested(
    tiny_model: Callable[[str], ToneModel], tmp_path: Path, repo_root: Path
) -> None:
    for name in HUB_MODELS:
        model = tiny_model(name)
        folder = shutil.copytree(model.checkpoint.source, repository_folder(tmp_path, name))
        (folder / WEIGHTS).unlink()
        write_weights(name, model.backbone, folder)
    requests, threads = fetch_models(tmp_path, tmp_path / "home", HUB_MODELS, repo_root)
    assert other_requests(requests, HUB_MODELS) == []
    for name in HUB_MODELS:
        spec = model_class(name).spec
        weights = f"GET /{spec.checkpoint}/resolve/{spec.revision}/{BIN if name == 'clip' else WEIGHTS}"
        assert requests.count(weights) == 1
    assert set(threads) <= {"MainThread", "tqdm_monitor"}
