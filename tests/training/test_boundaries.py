"""Where a training's frozen part ends, and that a training on what is cached is the training on the posts."""

import gc
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from src.core.errors import UsageError
from src.core.labels import TONES
from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.data.images import open_image
from src.modeling.base import Features, ToneModel
from src.models.catalog import MODELS
from src.training.adapter import fresh_adapter, saved_adapter
from src.training.cache import FeatureStore, FeatureTable
from src.training.dataset import LabelledFeatures
from src.training.inference import logits
from src.training.trainer import TrainingContext, TrainingResult, fit

LORA = TrainingConfig(readout="head", rank=4, alpha=8, dropout=0.0, lr=0.003, epochs=2, batch_size=8)

# What is cached for each training, besides `length` and the `pooled_image` of a frozen vision tower. Tiny LLaVA's
# language model has 3 layers, the others' stacks 2.
TEXT = {"tokens"}
CASES: Mapping[str, Mapping[str, tuple[dict[str, Any], set[str]]]] = {
    "clip": {
        "head alone": ({"rank": 0}, {"pooled"}),
        "both towers": ({}, {"pixels", *TEXT}),
        "text tower": ({"adapter_segments": "text"}, {"image", *TEXT}),
        "last layers": ({"adapter_layers": "last-1"}, {"vision.1", "text.1"}),
        "last text layer": ({"adapter_segments": "text", "adapter_layers": "last-half"}, {"image", "text.1"}),
    },
    "blip2": {
        "head alone": ({"rank": 0}, {"pooled"}),
        "language model": ({}, {"image", *TEXT}),
        "last layer": ({"adapter_layers": "last-half"}, {"language.1"}),
        "Q-Former": ({"unfreeze": "qformer"}, {"vision", *TEXT}),
        "projection": ({"rank": 0, "unfreeze": "connector"}, {"queries", *TEXT}),
        "image head, Q-Former": ({"unfreeze": "qformer", "image_head": "linear"}, {"vision", *TEXT}),
    },
    "llava": {
        "words": ({"readout": "verbalizer"}, {"image", *TEXT}),
        "words, image head": ({"readout": "verbalizer", "image_head": "linear"}, {"image", *TEXT}),
        "last layer": ({"adapter_layers": "last-half"}, {"language.2"}),
        "last two layers": ({"adapter_layers": "last-2", "readout": "verbalizer"}, {"language.1"}),
        "connector": ({"unfreeze": "connector"}, {"vision", *TEXT}),
    },
    "tinyllava": {
        "head alone": ({"rank": 0}, {"pooled"}),
        "both heads alone": ({"rank": 0, "image_head": "linear"}, {"pooled"}),
        "language model": ({}, {"image", *TEXT}),
        "last layer": ({"adapter_layers": "last-1"}, {"language.1"}),
    },
    "smol": {
        "words": ({"readout": "verbalizer"}, {"image", *TEXT}),
        "connector": ({"rank": 0, "unfreeze": "connector"}, {"vision", *TEXT}),
    },
}
EACH = [pytest.param(name, *CASES[name][case], id=f"{name}, {case}") for name in CASES for case in CASES[name]]


class Bare:
    """The inputs of posts, as they come from the disk, in place of what is cached."""

    def __init__(self, model: ToneModel, posts: list[Post]) -> None:
        self.rows = model.preprocess([open_image(post.image) for post in posts], [post.caption for post in posts])

    def __getitem__(self, index: int) -> Features:
        return self.rows[index]

    def lengths(self) -> list[int]:
        return [int(row["length"]) for row in self.rows]


def cached(model: ToneModel, posts: list[Post], folder: Path) -> LabelledFeatures:
    store = FeatureStore.of(folder, model)
    store.ensure(model, posts, 16, lambda _: None)
    return LabelledFeatures(posts, store.table(posts), TONES)


def bare(model: ToneModel, posts: list[Post]) -> LabelledFeatures:
    return LabelledFeatures(posts, cast(FeatureTable, Bare(model, posts)), TONES)


def test_cases_cover_the_catalog() -> None:
    assert tuple(CASES) == MODELS


@pytest.mark.parametrize(("name", "changes", "features"), EACH)
def test_cached_training_equals_uncached_training(
    name: str,
    changes: dict[str, Any],
    features: set[str],
    tiny_model: Callable[[str], ToneModel],
    posts: list[Post],
    tmp_path: Path,
) -> None:
    model, settings = tiny_model(name), replace(LORA, **changes)
    image = {"pooled_image"} if model.pools_image and "pixels" not in features else set()

    def trained(data: Callable[[list[Post]], LabelledFeatures]) -> TrainingResult:
        with fresh_adapter(model, settings, seed=1):
            assert set(model.cached_names()) == {*features, *image, "length", "has_caption"}
            return fit(model, data(posts[:24]), data(posts[24:44]), settings, TrainingContext(1))

    one = trained(lambda part: cached(model, part, tmp_path))
    other = trained(lambda part: bare(model, part))
    assert one.best_epoch == other.best_epoch
    for row, expected in zip(one.history, other.history, strict=True):
        assert row == pytest.approx(expected, abs=1e-4)
    assert [each.predicted for each in one.predictions] == [each.predicted for each in other.predictions]


# Which layers


def layers_of(modules: list[str]) -> set[str]:
    """The part and the number of each layer that carries an adapter."""
    return {module.split(".")[0] + module.split("layers.")[1].split(".")[0] for module in modules}


@pytest.mark.parametrize(
    ("name", "adapter_segments", "adapter_layers", "expected"),
    [
        ("llava", "", "all", {"model0", "model1", "model2"}),
        ("llava", "", "last-half", {"model2"}),
        ("llava", "language", "last-2", {"model1", "model2"}),
        ("llava", "", "last-3", {"model0", "model1", "model2"}),
        ("clip", "", "last-1", {"text_model1", "vision_model1"}),
        ("clip", "vision", "all", {"vision_model0", "vision_model1"}),
        ("clip", "text vision", "last-half", {"text_model1", "vision_model1"}),
    ],
)
def test_adapters_are_on_named_layers(
    name: str, adapter_segments: str, adapter_layers: str, expected: set[str], tiny_model: Callable[[str], ToneModel]
) -> None:
    with fresh_adapter(
        tiny_model(name), replace(LORA, adapter_segments=adapter_segments, adapter_layers=adapter_layers), seed=1
    ) as adapter:
        assert layers_of(adapter.modules()) == expected
        assert len(adapter.modules()) == len(expected) * (4 if name == "llava" else 2)


def test_partial_adapter_is_loaded(tiny_model: Callable[[str], ToneModel], posts: list[Post], tmp_path: Path) -> None:
    model, settings = tiny_model("blip2"), replace(LORA, adapter_layers="last-1", epochs=1)
    with fresh_adapter(model, settings, seed=1) as adapter:
        data = cached(model, posts[:16], tmp_path / "cache")
        fit(model, data, data, settings, TrainingContext(1))
        expected_NK = logits(model, data, 8)
        adapter.save(tmp_path / "adapter")
    with saved_adapter(tiny_model("blip2"), tmp_path / "adapter") as again:
        assert torch.equal(logits(again.model, data, 8), expected_NK)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"adapter_layers": "last-4"}, "adapter_layers last-4: language of llava has 3 layers"),
        ({"adapter_segments": "vision"}, "llava has nothing to adapt in vision"),
        ({"adapter_segments": "towers"}, "unknown part of the model 'towers'; known: connector, language, vision"),
    ],
)
def test_unadaptable_settings_are_refused(
    changes: dict[str, Any], words: str, tiny_model: Callable[[str], ToneModel]
) -> None:
    model = tiny_model("llava")
    names = [name for name, _ in model.named_parameters()]
    with pytest.raises(UsageError, match=words), fresh_adapter(model, replace(LORA, **changes), seed=1):
        pass
    assert [name for name, _ in model.named_parameters()] == names
    assert model.readout is None


@pytest.mark.parametrize("adapter_layers", ["none", "last-0", "last--1", "last-", "first-2", "last-2 "])
def test_invalid_layers_are_refused(adapter_layers: str) -> None:
    with pytest.raises(ValueError, match="adapter_layers must be all, last-half or last-K"):
        replace(LORA, adapter_layers=adapter_layers)


# What one base in memory comes to


def test_thirty_trials_leave_the_base_unchanged(
    tiny_model: Callable[[str], ToneModel], posts: list[Post], tmp_path: Path
) -> None:
    model = tiny_model("tinyllava")
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    tensors: list[int] = []
    gc.freeze()  # what is there already is neither looked through nor counted
    for trial in range(30):
        rank = 2 ** (trial % 5)
        settings = replace(LORA, rank=rank, alpha=rank, epochs=1, adapter_layers=("all", "last-1")[trial % 2])
        with fresh_adapter(model, settings, seed=trial):
            data = cached(model, posts[:8], tmp_path)
            fit(model, data, data, settings, TrainingContext(trial))
        gc.collect()
        tensors.append(sum(torch.is_tensor(each) for each in gc.get_objects()))
    assert tensors[-2:] == tensors[2:4]
    assert model.backbone.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())
