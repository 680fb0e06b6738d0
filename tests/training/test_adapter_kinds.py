"""Adapters other than plain LoRA, and parts of the base that train as a whole."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from src.core.errors import UsageError
from src.core.labels import TONES
from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.modeling.base import ToneModel
from src.training.adapter import Adapter, fresh_adapter, saved_adapter
from src.training.cache import FeatureStore
from src.training.dataset import LabelledFeatures
from src.training.inference import logits
from src.training.trainer import TrainingContext, fit

SETTINGS = TrainingConfig(readout="head", rank=4, alpha=8, dropout=0.0, lr=0.003, epochs=1, batch_size=8)
CASES = [
    ("tinyllava", replace(SETTINGS, adapter="dora")),
    ("tinyllava", replace(SETTINGS, adapter="rslora")),
    ("clip", replace(SETTINGS, adapter="ia3")),
    ("tinyllava", replace(SETTINGS, target_projections="qkvom")),
    ("llava", replace(SETTINGS, readout="verbalizer", unfreeze="connector")),
    ("blip2", replace(SETTINGS, target_projections="o", unfreeze="qformer")),
    ("blip2", replace(SETTINGS, rank=0, unfreeze="qformer connector")),
]


def name_of(case: object) -> str:
    return case if isinstance(case, str) else f"{case.adapter}-{case.target_projections}-{case.unfreeze}"  # type: ignore[attr-defined]


def bits(model: ToneModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.backbone.state_dict().items()}


def data_for(model: ToneModel, posts: list[Post], folder: Path) -> LabelledFeatures:
    store = FeatureStore.of(folder, model)
    store.ensure(model, posts[:8], 8, lambda _: None)
    return LabelledFeatures(posts[:8], store.table(posts[:8]), TONES)


def train_once(adapter: Adapter, data: LabelledFeatures) -> None:
    fit(adapter.model, data, data, adapter.settings, TrainingContext(seed=1))


@pytest.mark.parametrize(("name", "settings"), CASES, ids=name_of)
def test_every_kind_trains_saves_detaches(
    tiny_model: Callable[[str], ToneModel], posts: list[Post], tmp_path: Path, name: str, settings: TrainingConfig
) -> None:
    model = tiny_model(name)
    before = bits(model)
    with fresh_adapter(model, settings, seed=1) as adapter:
        data = data_for(model, posts, tmp_path)
        untrained = {key: weight.clone() for key, weight in model.named_parameters() if weight.requires_grad}
        train_once(adapter, data)
        still = [
            key for key, weight in model.named_parameters() if key in untrained and torch.equal(weight, untrained[key])
        ]
        # The Q-Former's own embedding of text is not read, and a zero start of LoRA's B keeps its A for one step.
        assert not [key for key in still if "lora_A" not in key], still
        expected = logits(model, data, 8)
        adapter.save(tmp_path / "adapter")
    assert all(torch.equal(value, before[key]) for key, value in bits(model).items())
    assert bits(model).keys() == before.keys()
    with saved_adapter(tiny_model(name), tmp_path / "adapter") as again:
        torch.testing.assert_close(logits(again.model, data, 8), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "unfreeze", "cached"),
    [
        ("llava", "connector", ("tokens", "length", "has_caption", "vision", "pooled_image")),
        ("blip2", "qformer", ("tokens", "length", "has_caption", "vision", "pooled_image")),
        ("blip2", "connector", ("tokens", "length", "has_caption", "pooled_image", "queries")),
        ("clip", "text", ("tokens", "length", "has_caption", "image")),
    ],
)
def test_unfrozen_parts_are_never_cached(
    tiny_model: Callable[[str], ToneModel], name: str, unfreeze: str, cached: tuple[str, ...]
) -> None:
    model = tiny_model(name)
    with fresh_adapter(model, replace(SETTINGS, rank=0, unfreeze=unfreeze), seed=1):
        assert model.cached_names() == cached


def test_targets_choose_the_projections(tiny_model: Callable[[str], ToneModel]) -> None:
    model = tiny_model("blip2")
    for target_projections, endings in (("q", {"q_proj"}), ("ko", {"k_proj", "out_proj"}), ("", {"q_proj", "v_proj"})):
        with fresh_adapter(model, replace(SETTINGS, target_projections=target_projections), seed=1) as adapter:
            assert {module.rsplit(".", 1)[1] for module in adapter.modules()} == endings


def test_unknown_part_is_refused(tiny_model: Callable[[str], ToneModel]) -> None:
    model = tiny_model("clip")
    before = bits(model)
    with (
        pytest.raises(UsageError, match="unknown part of the model 'qformer'; known: text, vision"),
        fresh_adapter(model, replace(SETTINGS, unfreeze="qformer"), seed=1),
    ):
        pass
    assert bits(model).keys() == before.keys()
