"""All that is asked of the Hub is the pinned commit, and nothing is left running: shown by a stand-in for the Hub."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from src.modeling.base import ToneModel
from src.models.catalog import MODELS, model_class
from tests.hub import BIN, WEIGHTS, fetched, place_of, strangers, write_weights


@pytest.mark.slow
def test_nothing_but_the_pinned_commits_is_asked_of_the_hub(
    tiny_model: Callable[[str], ToneModel], tmp_path: Path, repo_root: Path
) -> None:
    for name in MODELS:
        model = tiny_model(name)
        place = shutil.copytree(model.checkpoint.source, place_of(tmp_path, name))
        (place / WEIGHTS).unlink()
        write_weights(name, model.backbone, place)
    requests, threads = fetched(tmp_path, tmp_path / "home", MODELS, repo_root)
    assert strangers(requests, MODELS) == []
    for name in MODELS:
        spec = model_class(name).spec
        weights = f"GET /{spec.checkpoint}/resolve/{spec.revision}/{BIN if name == 'clip' else WEIGHTS}"
        assert requests.count(weights) == 1
    assert set(threads) <= {"MainThread", "tqdm_monitor"}
