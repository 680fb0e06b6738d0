"""What a training minimises."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from src.core.labels import TONES
from src.core.training_config import TrainingConfig


@dataclass(frozen=True)
class Loss:
    """Mean loss of a batch, in nats, as the settings ask for it; `weights_K` is what a post of each tone counts."""

    settings: TrainingConfig
    weights_K: Tensor

    @classmethod
    def of(cls, settings: TrainingConfig, labels_N: Tensor) -> Self:
        """The loss for training on posts with these labels.

        Balanced weights are N / (K * posts of the tone), so that all tones count alike and a post counts 1 on average
        (G. King and L. Zeng, Logistic Regression in Rare Events Data, 2001; scikit-learn's "balanced").
        """
        counts_K = torch.bincount(labels_N, minlength=len(TONES)).clamp(min=1)
        balanced_K = len(labels_N) / (len(TONES) * counts_K)
        return cls(settings, balanced_K if settings.class_weights == "balanced" else torch.ones(len(TONES)))

    def __call__(self, logits_BK: Tensor, labels_B: Tensor) -> Tensor:
        """Cross-entropy with label smoothing (C. Szegedy et al., CVPR 2016, section 7), weighted by tone.

        With `loss: focal` each post's is scaled by (1 - p)**gamma, p being the probability of its label: the posts that
        the model is sure of already count less (T.-Y. Lin et al., Focal Loss for Dense Object Detection, ICCV 2017,
        equation 4).
        """
        each_B = cross_entropy(logits_BK, labels_B, label_smoothing=self.settings.label_smoothing, reduction="none")
        if self.settings.loss == "focal":
            sure_B = logits_BK.softmax(dim=-1).gather(1, labels_B[:, None])[:, 0]
            each_B = each_B * (1 - sure_B) ** self.settings.focal_gamma
        return (each_B * self.weights_K.to(labels_B.device)[labels_B]).mean()
