"""The training loss: cross-entropy or focal loss, weighted by label."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from src.core.training_config import TrainingConfig


@dataclass(frozen=True)
class Loss:
    """The mean loss of a batch, in nats."""

    settings: TrainingConfig
    # The weight of a post by its label.
    weights_K: Tensor

    @classmethod
    def of(cls, settings: TrainingConfig, labels_N: Tensor, num_labels: int) -> Self:
        """Return the loss for training on posts with these labels, of `num_labels` possible ones.

        Balanced weights are N / (K * posts of the label): all labels weigh alike, and a post weighs 1 on average
        (G. King and L. Zeng, Logistic Regression in Rare Events Data, 2001; scikit-learn's "balanced").
        """
        counts_K = torch.bincount(labels_N, minlength=num_labels).clamp(min=1)
        balanced_K = len(labels_N) / (num_labels * counts_K)
        return cls(settings, balanced_K if settings.class_weights == "balanced" else torch.ones(num_labels))

    def __call__(self, logits_BK: Tensor, labels_B: Tensor) -> Tensor:
        """Return cross-entropy with label smoothing (C. Szegedy et al., CVPR 2016, section 7), weighted by label.

        `loss: focal` scales a post's loss by (1 - p)**gamma, where p is the probability of its label. Posts that the
        model predicts confidently then weigh less (T.-Y. Lin et al., Focal Loss for Dense Object Detection, ICCV 2017,
        equation 4).
        """
        losses_B = cross_entropy(logits_BK, labels_B, label_smoothing=self.settings.label_smoothing, reduction="none")
        if self.settings.loss == "focal":
            confidence_B = logits_BK.softmax(dim=-1).gather(1, labels_B[:, None])[:, 0]
            # A power below 1 has an infinite slope at 0, where a confidence rounds to 1.
            doubt_B = (1 - confidence_B).clamp(min=torch.finfo(confidence_B.dtype).eps)
            losses_B = losses_B * doubt_B**self.settings.focal_gamma
        return (losses_B * self.weights_K.to(labels_B.device)[labels_B]).mean()
