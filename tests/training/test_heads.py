from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from src.core.training_config import TrainingConfig
from src.training.adapter import ClassifierHead, ImageHead

SETTINGS = TrainingConfig(readout="head", rank=0, alpha=1, dropout=0.5, lr=0.1, head_width=16)


@pytest.mark.parametrize(
    ("layers", "shapes"),
    [(0, [(3, 8)]), (1, [(16, 8), (3, 16)]), (2, [(16, 8), (8, 16), (3, 8)])],
)
def test_head_has_the_wanted_layers(layers: int, shapes: list[tuple[int, int]]) -> None:
    head = ClassifierHead(8, replace(SETTINGS, head_layers=layers), 3)
    linear = [module for module in head if isinstance(module, nn.Linear)]
    assert [tuple(module.weight.shape) for module in linear] == shapes
    assert isinstance(head[0], nn.LayerNorm)
    assert sum(isinstance(module, nn.GELU) for module in head) == layers
    before = [head[list(head).index(module) - 1] for module in linear]
    assert [module.p for module in before if isinstance(module, nn.Dropout)] == [0.5] * (layers + 1)
    assert head(torch.randn(5, 8)).shape == (5, 3)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_head_ignores_the_scale(layers: int) -> None:
    head = ClassifierHead(8, replace(SETTINGS, head_layers=layers), 3).eval()
    pooled_BD = torch.randn(4, 8)
    torch.testing.assert_close(head(pooled_BD * 1000), head(pooled_BD), rtol=0, atol=1e-3)


def test_dropout_is_for_training_alone() -> None:
    torch.manual_seed(0)
    head = ClassifierHead(8, SETTINGS, 3)
    pooled_BD = torch.randn(4, 8)
    assert not torch.equal(head(pooled_BD), head(pooled_BD))
    head.eval()
    assert torch.equal(head(pooled_BD), head(pooled_BD))


def test_every_weight_learns() -> None:
    torch.manual_seed(0)
    head = ClassifierHead(8, replace(SETTINGS, head_layers=2, dropout=0.0), 3)
    cross_entropy(head(torch.randn(4, 8)), torch.tensor([0, 1, 2, 2])).backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is not None and weight.grad.any() for weight in head.parameters())


def test_image_head_is_linear_and_begins_with_nothing() -> None:
    head = ImageHead(8, replace(SETTINGS, head_layers=2), 3)
    assert [tuple(module.weight.shape) for module in head if isinstance(module, nn.Linear)] == [(3, 8)]
    assert not head(torch.randn(4, 8)).any()
    for weight in head[-1].parameters():
        nn.init.ones_(weight)
    features_BI = torch.randn(2, 8)
    features_BI[1] = 0
    assert head(features_BI).any(dim=1).tolist() == [True, False]
