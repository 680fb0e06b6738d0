"""Late fusion: a head of the image's own beside the readout."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
import torch
from PIL.Image import Image
from torch import Tensor

from src.core.errors import UsageError, UserError
from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.data.images import open_image, placeholder
from src.modeling.base import ToneModel
from src.models.catalog import MODELS
from src.training.adapter import (
    IMAGE_HEAD_FILE,
    attach_adapter,
    fresh_adapter,
    load,
    saved_adapter,
    trainable_state,
)
from src.training.cache import FeatureStore
from src.training.inference import logits_of
from src.training.train_and_test import trained_adapter
from src.training.trainer import TrainingContext
from src.training.workspace import Workspace
from tests.made_versions import without_image

NAMES = [name for name in MODELS if name != "clip"]
SETTINGS = TrainingConfig(
    readout="head", image_head="linear", rank=2, alpha=4, dropout=0.0, lr=0.003, epochs=2, batch_size=8
)


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest, tiny_model: Callable[[str], ToneModel]) -> ToneModel:
    return tiny_model(request.param)


@pytest.fixture
def images(posts: list[Post]) -> list[Image]:
    return [open_image(post.image) for post in posts[:4]]


def vision_states(model: ToneModel, images: list[Image]) -> Tensor:
    """Return the states of all tokens of the vision tower, by transformers alone."""
    pixels = model.image_processor(images, return_tensors="pt")["pixel_values"]
    if model.spec.name == "blip2":
        return model.backbone.vision_model(pixel_values=pixels).last_hidden_state  # type: ignore[no-any-return]
    tower = model.backbone.model.vision_tower(pixel_values=pixels, output_hidden_states=True)
    return tower.hidden_states[model.backbone.config.vision_feature_layer]  # type: ignore[no-any-return]


@torch.no_grad()
def test_logits_are_the_sum_of_both_heads(model: ToneModel, images: list[Image]) -> None:
    captions = ["so happy", "", "a sad day", "sad", "so happy"]
    images.append(open_image(placeholder()))
    with fresh_adapter(model, replace(SETTINGS, image_head="none"), seed=1):
        without_BK = logits_of(model, images, captions)
    with fresh_adapter(model, SETTINGS, seed=1) as adapter:
        before_BK = logits_of(model, images, captions)
        without_BK[1] = 0  # a post without a caption
        assert torch.equal(before_BK, without_BK)  # before any training
        head = adapter.heads()[IMAGE_HEAD_FILE]
        for weight in head.parameters():
            weight.copy_(torch.randn_like(weight))
        states_BPD = vision_states(model, images)
        pooled_BI = torch.cat([states_BPD[:, 0], states_BPD[:, 1:].mean(dim=1)], dim=1)
        both_BK = logits_of(model, images, captions)
        added_BK = head(pooled_BI)
        assert added_BK.any(dim=1).all()
        added_BK[-1] = 0  # a post without an image
        torch.testing.assert_close(both_BK, without_BK + added_BK, rtol=0, atol=1e-3)
    assert model.image_head is None


@pytest.fixture
def workspace(model: ToneModel, posts: list[Post], tmp_path: Path) -> Workspace:
    return Workspace(model, {"train": posts[:24], "val": posts[24:36], "test": posts[36:44]}, cache=tmp_path / "cache")


@pytest.mark.parametrize("readout", ["head", "verbalizer"])
def test_fitted_heads_are_saved_and_loaded(
    workspace: Workspace, readout: str, posts: list[Post], images: list[Image], tmp_path: Path
) -> None:
    settings = replace(SETTINGS, readout=readout)  # type: ignore[arg-type]
    model, captions = workspace.model, [post.caption for post in posts[:4]]
    with trained_adapter(workspace, settings, TrainingContext(1)) as (adapter, _):
        weights = [weight for weight in adapter.heads()[IMAGE_HEAD_FILE].parameters() if weight.any()]
        assert len(weights) == 3  # the norm's scale, and the linear layer's two
        adapter.save(tmp_path / "adapter")
        expected_BK = logits_of(model, images, captions)
    with saved_adapter(model, tmp_path / "adapter"):
        torch.testing.assert_close(logits_of(model, images, captions), expected_BK, rtol=0, atol=1e-6)
    (tmp_path / "adapter" / IMAGE_HEAD_FILE).unlink()
    with pytest.raises(UserError, match=IMAGE_HEAD_FILE):
        load(model, tmp_path / "adapter")
    assert (model.image_head, model.readout) == (None, None)


@pytest.mark.parametrize("settings", [SETTINGS, replace(SETTINGS, curriculum="loss", curriculum_until=1.0)])
def test_readout_trains_as_without_image_head(workspace: Workspace, settings: TrainingConfig) -> None:
    trained = {}
    for kind in ("none", "linear"):
        settings = replace(settings, image_head=kind, dropout=0.1, epochs=1)
        with trained_adapter(workspace, settings, TrainingContext(1)):
            trained[kind] = trainable_state(workspace.model)
    assert trained["none"].keys() == trained["linear"].keys()
    for name, weight in trained["none"].items():
        assert torch.equal(trained["linear"][name], weight), name


def test_later_boundaries_are_computed_from_earlier_ones(model: ToneModel, posts: list[Post], tmp_path: Path) -> None:
    """The features of an image head come from the cache of a training without one."""
    without = replace(SETTINGS, image_head="none", adapter_positions="text")
    with fresh_adapter(model, without, seed=1):
        FeatureStore.of(tmp_path, model).ensure(model, posts[:4], 4, lambda _: None)
    runs: list[str] = []
    run = model.run_segment
    model.run_segment = lambda segment, features: (runs.append(segment.name), run(segment, features))[1]  # type: ignore[method-assign, func-returns-value]
    try:
        with fresh_adapter(model, replace(SETTINGS, rank=0), seed=1):
            store = FeatureStore.of(tmp_path, model)
            store.ensure(model, posts[:4], 4, lambda _: None)
            assert store.table(posts[:1])[0]["pooled_image"].shape == (model.pooled_image_width,)
    finally:
        del model.run_segment
    assert runs and "vision" not in runs


def test_image_head_reads_what_the_training_cached(workspace: Workspace) -> None:
    model, runs = workspace.model, []
    run = model.run_segment
    settings = replace(SETTINGS, adapter_positions="text")
    with fresh_adapter(model, settings, seed=1):
        workspace.data("train")
        workspace.data("val")
        model.run_segment = lambda segment, features: (runs.append(segment.name), run(segment, features))[1]  # type: ignore[method-assign, func-returns-value]
        try:
            workspace.image_logits(settings)
        finally:
            del model.run_segment
    assert runs == []


def test_cached_missing_image_has_no_features(model: ToneModel, posts: list[Post], tmp_path: Path) -> None:
    PIL.Image.new("RGB", (64, 64), "grey").save(tmp_path / "plain.png")
    plain = replace(posts[0], id="plain", image=str(tmp_path / "plain.png"), digest="plain")
    shown = [posts[0], without_image(posts[0], tmp_path), plain]
    with fresh_adapter(model, SETTINGS, seed=1):
        store = FeatureStore.of(tmp_path, model)
        store.ensure(model, shown, 4, lambda _: None)
        table = store.table(shown)
        assert [bool(table[row]["pooled_image"].any()) for row in range(3)] == [True, False, True]


def test_clip_has_no_image_head(tiny_model: Callable[[str], ToneModel]) -> None:
    model = tiny_model("clip")
    with pytest.raises(UsageError, match="image_head"):
        attach_adapter(model, SETTINGS, seed=1)
    assert model.readout is None
