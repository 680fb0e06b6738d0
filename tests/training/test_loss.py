import math

import pytest
import torch

from src.core.training_config import TrainingConfig
from src.training.loss import Loss

LABELS = torch.tensor([0, 0, 0, 1, 2, 2])
LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])


def settings(**chosen: object) -> TrainingConfig:
    return TrainingConfig(readout="head", rank=1, alpha=1, dropout=0, lr=1e-3, **chosen)  # type: ignore[arg-type]


def test_cross_entropy_by_hand() -> None:
    p = math.exp(2) / (math.exp(2) + 1 + math.exp(-1))
    loss = Loss.of(settings(), LABELS, 3)(LOGITS, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx((-math.log(p) - math.log(1 / 3)) / 2)


def test_label_smoothing_by_hand() -> None:
    logs = LOGITS[0].log_softmax(0)
    loss = Loss.of(settings(label_smoothing=0.3), LABELS, 3)(LOGITS[:1], torch.tensor([0]))
    assert loss.item() == pytest.approx(-(0.7 * logs[0] + 0.1 * logs.sum()).item())


def test_balanced_weights_equalise_tones() -> None:
    loss = Loss.of(settings(class_weights="balanced"), LABELS, 3)
    assert loss.weights_K.tolist() == pytest.approx([6 / 9, 6 / 3, 6 / 6])
    assert loss.weights_K[LABELS].mean().item() == pytest.approx(1)
    weighted = loss(LOGITS, torch.tensor([0, 1])).item()
    alone = [Loss.of(settings(), LABELS, 3)(LOGITS[i : i + 1], torch.tensor([i])).item() for i in (0, 1)]
    assert weighted == pytest.approx((alone[0] * 6 / 9 + alone[1] * 2) / 2)


def test_absent_tone_has_finite_weight() -> None:
    assert torch.isfinite(Loss.of(settings(class_weights="balanced"), torch.tensor([0, 1]), 3).weights_K).all()


def test_focal_loss_by_hand() -> None:
    p = LOGITS[0].softmax(0)[0].item()
    loss = Loss.of(settings(loss="focal", focal_gamma=2.0), LABELS, 3)(LOGITS[:1], torch.tensor([0]))
    assert loss.item() == pytest.approx(-((1 - p) ** 2) * math.log(p), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_focal_loss_of_sure_answers_has_finite_gradients(gamma: float) -> None:
    logits_BK = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)
    Loss.of(settings(loss="focal", focal_gamma=gamma), LABELS, 3)(logits_BK, torch.tensor([0])).backward()  # type: ignore[no-untyped-call]
    assert logits_BK.grad is not None
    assert logits_BK.grad.isfinite().all()


def test_focal_loss_without_gamma() -> None:
    labels = torch.tensor([2, 1])
    focal = Loss.of(settings(loss="focal", focal_gamma=0.0), LABELS, 3)(LOGITS, labels)
    assert torch.equal(focal, Loss.of(settings(), LABELS, 3)(LOGITS, labels))
