"""The image head of a model: logistic regression on the image's own features, fitted before the rest trains.

Its logits are added to those of the readout (late fusion). A head that learns from the sum learns little where the text
has explained the labels already (C. Du et al., On Uni-Modal Feature Learning in Supervised Multi-Modal Learning, ICML
2023; their uni-modal ensemble adds the logits of models that were trained apart).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, layer_norm

# Candidates for the inverse strength of the L2 penalty. They are those of a linear probe.
CANDIDATE_C = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_MOST_ITERATIONS = 1000


@dataclass(frozen=True)
class ImageExamples:
    """Images' features_NI, and their labels_N as indices."""

    features_NI: Tensor
    labels_N: Tensor


@dataclass(frozen=True)
class LinearLogits:
    """A linear map from an image's features, after a layer norm, to logits."""

    weights_KI: Tensor
    biases_K: Tensor

    def __call__(self, features_NI: Tensor) -> Tensor:
        """Return logits_NK."""
        return _normalised(features_NI) @ self.weights_KI.T + self.biases_K

    def write_to(self, head: nn.Sequential) -> None:
        """Make an image head, whose last module is its linear layer, compute these logits."""
        with torch.no_grad():
            for weight, values in zip(head[-1].parameters(), (self.weights_KI, self.biases_K), strict=True):
                weight.copy_(values)


def fit_logits(train: ImageExamples, val: ImageExamples, num_labels: int) -> LinearLogits:
    """Fit logistic regression on standardised features, with the C that has the least validation loss.

    The logits lack the logarithms of the labels' shares in `train`. Those of the readout have the shares of its own
    examples, and a sum must count shares once (A. K. Menon et al., Long-tail learning via logit adjustment, ICLR 2021).
    The validation loss adds the shares in `val`.

    A label without examples gets a logit of 0. All logits are 0 if `train` has one label alone.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if len(set(train.labels_N.tolist())) == 1:
        return LinearLogits(
            torch.zeros(num_labels, train.features_NI.shape[1], dtype=torch.float64),
            torch.zeros(num_labels, dtype=torch.float64),
        )
    inputs_NI = _normalised(train.features_NI).numpy()
    scaler = StandardScaler().fit(inputs_NI)
    log_val_K = _log_shares(val.labels_N, num_labels)

    def fit(c: float) -> LinearLogits:
        classifier = LogisticRegression(C=c, max_iter=_MOST_ITERATIONS)
        classifier.fit(scaler.transform(inputs_NI), train.labels_N.numpy())
        # Of two labels, scikit-learn keeps the difference of their logits alone.
        signs = np.array([-0.5, 0.5]) if len(classifier.classes_) == 2 else np.ones(len(classifier.classes_))
        coefficients = signs[:, None] * classifier.coef_ / scaler.scale_
        intercepts = signs * classifier.intercept_ - coefficients @ scaler.mean_
        weights_KI = torch.zeros(num_labels, inputs_NI.shape[1], dtype=torch.float64)
        biases_K = torch.zeros(num_labels, dtype=torch.float64)
        weights_KI[classifier.classes_] = torch.from_numpy(coefficients)
        log_train_K = _log_shares(train.labels_N, num_labels)
        biases_K[classifier.classes_] = torch.from_numpy(intercepts) - log_train_K[classifier.classes_]
        return LinearLogits(weights_KI, biases_K)

    def loss(found: LinearLogits) -> float:
        return cross_entropy(found(val.features_NI) + log_val_K, val.labels_N).item()

    return min((fit(c) for c in CANDIDATE_C), key=loss)


def _normalised(features_NI: Tensor) -> Tensor:
    """Apply the layer norm with which a head begins, in double precision."""
    return layer_norm(features_NI.double(), features_NI.shape[-1:])


def _log_shares(labels_N: Tensor, num_labels: int) -> Tensor:
    """Return the logarithm of each label's share, as if a label without examples had one."""
    counts_K = torch.bincount(labels_N, minlength=num_labels).clamp(min=1).double()
    return (counts_K / counts_K.sum()).log()
