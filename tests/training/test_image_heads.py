"""Late fusion: a head of the image's own beside the readout."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL.Image import Image
from torch import Tensor

from src.core.errors import UsageError, UserError
from src.core.labels import TONES
from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.data.images import open_image
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
from src.training.dataset import LabelledFeatures
from src.training.inference import logits_of
from src.training.trainer import TrainingContext, fit

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
    captions = ["so happy", "", "a sad day", "so happy"]
    with fresh_adapter(model, replace(SETTINGS, image_head="none"), seed=1):
        without_BK = logits_of(model, images, captions)
    with fresh_adapter(model, SETTINGS, seed=1) as adapter:
        assert torch.equal(logits_of(model, images, captions), without_BK)  # before any training
        head = adapter.heads()[IMAGE_HEAD_FILE]
        for weight in head.parameters():
            weight.copy_(torch.randn_like(weight))
        states_BPD = vision_states(model, images)
        pooled_BI = torch.cat([states_BPD[:, 0], states_BPD[:, 1:].mean(dim=1)], dim=1)
        both_BK = logits_of(model, images, captions)
        torch.testing.assert_close(both_BK, without_BK + head(pooled_BI), rtol=0, atol=1e-3)
    assert model.image_head is None


def trained(model: ToneModel, settings: TrainingConfig, posts: list[Post], folder: Path) -> LabelledFeatures:
    """Train the adapter that is attached, and return the posts that it was trained on."""
    store = FeatureStore.of(folder, model)
    store.ensure(model, posts, 8, lambda _: None)
    data = LabelledFeatures(posts, store.table(posts), TONES)
    fit(model, data, data, settings, TrainingContext(1))
    return data


@pytest.mark.parametrize("readout", ["head", "verbalizer"])
def test_trained_heads_are_saved_and_loaded(
    model: ToneModel, readout: str, posts: list[Post], images: list[Image], tmp_path: Path
) -> None:
    settings = replace(SETTINGS, readout=readout)  # type: ignore[arg-type]
    captions = [post.caption for post in posts[:4]]
    with fresh_adapter(model, settings, seed=1) as adapter:
        before = trainable_state(model)
        trained(model, settings, posts[:24], tmp_path / "cache")
        changed = {name for name, weight in trainable_state(model).items() if not torch.equal(weight, before[name])}
        assert {name for name in before if name.startswith("image_head.")} <= changed
        adapter.save(tmp_path / "adapter")
        expected_BK = logits_of(model, images, captions)
    with saved_adapter(model, tmp_path / "adapter"):
        torch.testing.assert_close(logits_of(model, images, captions), expected_BK, rtol=0, atol=1e-6)
    (tmp_path / "adapter" / IMAGE_HEAD_FILE).unlink()
    with pytest.raises(UserError, match=IMAGE_HEAD_FILE):
        load(model, tmp_path / "adapter")
    assert (model.image_head, model.readout) == (None, None)


def test_heads_learn_apart(model: ToneModel, posts: list[Post], tmp_path: Path) -> None:
    """A step changes the readout as without an image head, whatever the image head answers."""
    # With a large epsilon a change is proportional to its gradient.
    settings = replace(SETTINGS, rank=0, lr=1.0, adam_eps=1.0, epochs=1, batch_size=24, max_grad_norm=1e9)
    changes = {}
    for kind in ("none", "linear"):
        with fresh_adapter(model, replace(settings, image_head=kind), seed=1):
            if model.image_head is not None:
                torch.nn.init.normal_(model.image_head[-1].weight)  # type: ignore[index]
            before = trainable_state(model)
            trained(model, settings, posts[:24], tmp_path / kind)
            changes[kind] = {name: weight - before[name] for name, weight in trainable_state(model).items()}
    assert max(change.abs().max() for change in changes["none"].values()) > 0.01
    for name, change in changes["none"].items():
        torch.testing.assert_close(changes["linear"][name], change, rtol=0, atol=1e-4)


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


def test_clip_has_no_image_head(tiny_model: Callable[[str], ToneModel]) -> None:
    model = tiny_model("clip")
    with pytest.raises(UsageError, match="image_head"):
        attach_adapter(model, SETTINGS, seed=1)
    assert model.readout is None
