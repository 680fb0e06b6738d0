"""Covers: the fit of an image head (src/training/image_head.py)."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import layer_norm

from src.core.training_config import TrainingConfig
from src.training.adapter import ImageHead
from src.training.image_head import CANDIDATE_C, ImageExamples, fit_logits

SETTINGS = TrainingConfig(readout="head", rank=1, alpha=1, dropout=0.1, lr=1e-3)
WIDTH = 12


def examples(shares: list[float], count: int, seed: int) -> ImageExamples:
    """Features with a part that depends on the label, and labels with these shares."""
    rng = np.random.default_rng(seed)
    labels_N = torch.from_numpy(rng.choice(len(shares), count, p=shares))
    noise_NI = torch.from_numpy(rng.normal(size=(count, WIDTH)) * 3 + 5)
    return ImageExamples((noise_NI + 4 * torch.eye(len(shares), WIDTH)[labels_N]).float(), labels_N)


def log_shares(labels_N: Tensor, num_labels: int) -> Tensor:
    return (torch.bincount(labels_N, minlength=num_labels) / len(labels_N)).log().double()


@pytest.mark.parametrize("shares", [[0.6, 0.1, 0.3], [0.7, 0.3]])
def test_logits_are_those_of_logistic_regression_without_shares(shares: list[float]) -> None:
    num_labels = len(shares)
    train, val = examples(shares, 400, seed=1), examples(shares, 200, seed=2)
    found = fit_logits(train, val, num_labels)
    candidates = []
    for c in CANDIDATE_C:
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
        inputs_NI = layer_norm(train.features_NI.double(), (WIDTH,)).numpy()
        classifier.fit(inputs_NI, train.labels_N.numpy())
        log_NK = torch.from_numpy(
            classifier.predict_log_proba(layer_norm(val.features_NI.double(), (WIDTH,)).numpy())
        ) - log_shares(train.labels_N, num_labels)
        answers_NK = (log_NK + log_shares(val.labels_N, num_labels)).log_softmax(dim=1)
        candidates.append((-answers_NK[range(200), val.labels_N].mean().item(), c, log_NK))
    _, _, expected_NK = min(candidates, key=lambda candidate: candidate[0])
    torch.testing.assert_close(found(val.features_NI).log_softmax(1), expected_NK.log_softmax(1), rtol=0, atol=1e-6)


def test_head_computes_the_logits() -> None:
    train = examples([0.5, 0.2, 0.3], 100, seed=1)
    found = fit_logits(train, train, 3)
    head = ImageHead(WIDTH, SETTINGS, 3).eval()
    found.write_to(head)
    torch.testing.assert_close(head(train.features_NI).double(), found(train.features_NI), rtol=0, atol=1e-4)
    assert not any(weight.requires_grad for weight in head.parameters())


def test_absent_label_has_no_evidence() -> None:
    train = examples([0.5, 0.0, 0.5], 100, seed=1)
    logits_NK = fit_logits(train, train, 3)(train.features_NI)
    assert not logits_NK[:, 1].any()
    assert (logits_NK[:, [0, 2]].argmax(dim=1) * 2 == train.labels_N).double().mean() > 0.8


def test_single_label_gives_no_logits() -> None:
    train = examples([1.0, 0.0, 0.0], 20, seed=1)
    assert not fit_logits(train, train, 3)(train.features_NI).any()
