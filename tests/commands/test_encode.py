"""Covers: the first work of stage `frozen`: the checkpoint and the caches."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from src.core.config import Params, load_params
from src.core.errors import UserError
from src.core.outputs import EncodeOutput, PretrainedWeights
from src.core.paths import ENCODE_FILE, PARAMS, POSTS, SPLIT, checkpoint_file, checkpoint_folder, stage_folder
from src.core.records import Post, write_posts, write_split
from src.models.catalog import model_class
from src.pipeline.encode import encode_model
from src.training.workspace import open_workspace


@pytest.fixture
def params(posts: list[Post], repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The settings of the repository, in a folder where `prepare` and `split` have run on eight posts."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(repo_root / PARAMS, PARAMS)
    parts = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    write_posts(POSTS, posts[:8])
    write_split(SPLIT, {post.id: part for post, part in zip(posts, parts, strict=False)})
    return load_params()


def test_encode_fills_both_caches(params: Params) -> None:
    result = encode_model(params, "tinyllava")
    assert [cache.num_encoded for cache in result.caches] == [8, 8]
    assert all(cache.num_cached == 0 < cache.num_bytes for cache in result.caches)
    folders = [cache.folder.name for cache in result.caches]
    assert EncodeOutput.read(stage_folder("encode", "tinyllava") / ENCODE_FILE) == EncodeOutput(8, tuple(folders))
    again = encode_model(params, "tinyllava")
    assert [(cache.num_encoded, cache.num_cached) for cache in again.caches] == [(0, 8), (0, 8)]
    assert again.workspace.model.checkpoint == result.workspace.model.checkpoint


def test_encode_records_the_checkpoint(params: Params) -> None:
    result = encode_model(params, "clip")
    assert result.workspace.model.checkpoint.source == str(checkpoint_folder("clip"))
    assert PretrainedWeights.read(checkpoint_file("clip")) == result.workspace.model.checkpoint
    assert open_workspace(params, "clip").model.checkpoint == result.workspace.model.checkpoint


def test_encode_counts_augmented_views(params: Params) -> None:
    common = {**params.training["common"], "augment": "caption", "num_augmented_views": 2}
    augmented = replace(params, training={**params.training, "common": common})
    adapted, bare = encode_model(augmented, "clip").caches
    assert adapted.num_encoded + adapted.num_cached == 8 + 2 * 4
    assert adapted.num_encoded > 8
    assert bare.num_encoded == 8
    assert (adapted.unit, bare.unit) == ("posts and views", "posts")


def test_encode_needs_a_split(params: Params) -> None:
    SPLIT.unlink()
    with pytest.raises(UserError, match=SPLIT.name):
        encode_model(params, "clip")


@pytest.mark.parametrize(("unfreeze", "warns"), [("", True), ("connector", False)])
def test_untrained_connector_is_named(
    params: Params,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    unfreeze: str,
    warns: bool,
) -> None:
    """The real checkpoint of `smol` takes a minute to build, so a tiny one stands in for it."""
    smol = model_class("smol")
    smol.make_tiny(tmp_path / "published", ["a caption"] * 40)
    published = PretrainedWeights.of_folder(tmp_path / "published", "full")
    monkeypatch.setattr(smol, "published_checkpoint", lambda: published)
    settings = {**params.training["smol"], "unfreeze": unfreeze}
    encode_model(replace(params, scale="full", align={}, training={**params.training, "smol": settings}), "smol")
    assert ("random weights in connector" in capsys.readouterr().err) == warns
