"""Dropout's masks: their share, their scale, and what decides them."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from src.core.training_config import TrainingConfig
from src.modeling.base import ToneModel
from src.training.adapter import fresh_adapter
from src.training.dropout import LEVELS, Dropout, mask

SHAPE = (3, 1001, 7)  # of 64 bits that are drawn, some are left over


def dropped(p: float, values: Tensor | None = None, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    result: Tensor = Dropout(p).train()(torch.ones(SHAPE) if values is None else values)
    return result


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_share_of_dropped_values(p: float) -> None:
    values = dropped(p)
    expected, spread = p * values.numel(), math.sqrt(p * (1 - p) * values.numel())
    assert abs((values == 0).sum().item() - expected) < 5 * spread


@pytest.mark.parametrize("p", [0.1, 0.3])
def test_kept_values_are_scaled(p: float) -> None:
    values = dropped(p)
    exact = round(p * LEVELS) / LEVELS
    (kept,) = set(values[values != 0].tolist())
    assert kept == pytest.approx(1 / (1 - exact), rel=1e-6)


def test_probability_near_one_drops_nearly_all() -> None:
    values = dropped(0.999999)
    assert values.isfinite().all()
    assert (values != 0).sum() < 10


def test_neighbouring_masks_are_independent() -> None:
    torch.manual_seed(1)
    kept = mask(torch.ones(400_000), 0.5).view(-1, 4) > 0
    correlations = torch.corrcoef(kept.T.float()) - torch.eye(4)
    assert correlations.abs().max() < 0.02


def test_the_seed_decides_the_mask() -> None:
    assert torch.equal(dropped(0.2, seed=3), dropped(0.2, seed=3))
    assert not torch.equal(dropped(0.2, seed=3), dropped(0.2, seed=4))


def test_gradients_flow_through_what_is_kept() -> None:
    values = torch.ones(SHAPE, requires_grad=True)
    result = dropped(0.2, values)
    result.sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert torch.equal(values.grad, result.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_keeps_the_dtype(dtype: torch.dtype) -> None:
    assert dropped(0.2, torch.ones(SHAPE, dtype=dtype)).dtype == dtype


def test_evaluation_drops_nothing() -> None:
    values = torch.ones(SHAPE)
    assert Dropout(0.5).eval()(values) is values
    assert torch.equal(Dropout(0.0).train()(values), values)


@pytest.mark.parametrize("adapter", ["lora", "dora", "rslora"])
def test_adapters_drop_by_it(tiny_model: Callable[[str], ToneModel], adapter: str) -> None:
    model = tiny_model("clip")
    settings = TrainingConfig(readout="head", rank=2, alpha=4, dropout=0.25, lr=0.003, adapter=adapter)  # type: ignore[arg-type] # one of its words
    with fresh_adapter(model, settings, 7):
        modules = [module for name, module in model.backbone.named_modules() if ".lora_dropout." in name]
        assert modules
        assert all(isinstance(module, Dropout) and module.p == 0.25 for module in modules)
