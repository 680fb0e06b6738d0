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
    # The logarithm of each label's share of what the loss sees.
    log_priors_K: Tensor

    @classmethod
    def of(cls, settings: TrainingConfig, labels_N: Tensor, num_labels: int) -> Self:
        """Return the loss for training on posts with these labels, of `num_labels` possible ones.

        Balanced weights are N / (K * posts of the label): all labels weigh alike, and a post weighs 1 on average
        (G. King and L. Zeng, Logistic Regression in Rare Events Data, 2001; scikit-learn's "balanced").
        """
        counts_K = torch.bincount(labels_N, minlength=num_labels).clamp(min=1)
        balanced_K = len(labels_N) / (num_labels * counts_K)
        is_balanced = "balanced" in (settings.class_weights, settings.sampling)
        priors_K = torch.full((num_labels,), 1 / num_labels) if is_balanced else counts_K / counts_K.sum()
        weights_K = balanced_K if settings.class_weights == "balanced" else torch.ones(num_labels)
        return cls(settings, weights_K, priors_K.log())

    def of_heads(self, logits_HBK: Tensor, labels_B: Tensor) -> Tensor:
        """Return the sum of the heads' losses, each on the logits of its head alone.

        By one loss on added logits a head learns little where another one has explained the labels already (C. Du et
        al., On Uni-Modal Feature Learning in Supervised Multi-Modal Learning, ICML 2023; their uni-modal ensemble adds
        the logits of models that were trained apart).

        The labels' frequencies must count once in the sum. So the first head alone learns them: the others learn with
        the logarithms of the frequencies added to their logits (A. K. Menon et al., Long-tail learning via logit
        adjustment, ICLR 2021, equation 10).
        """
        first, *others = logits_HBK
        log_priors_K = self.log_priors_K.to(logits_HBK.device)
        losses = [self(first, labels_B), *(self(logits_BK + log_priors_K, labels_B) for logits_BK in others)]
        return torch.stack(losses).sum()

    def __call__(self, logits_BK: Tensor, labels_B: Tensor) -> Tensor:
        """Return cross-entropy with label smoothing (C. Szegedy et al., CVPR 2016, section 7), weighted by label.

        `loss: focal` scales a post's loss by (1 - p)**gamma, where p is the probability of its label. Posts that the
        model predicts confidently then weigh less (T.-Y. Lin et al., Focal Loss for Dense Object Detection, ICCV 2017,
        equation 4).
        """
        losses_B = cross_entropy(logits_BK, labels_B, label_smoothing=self.settings.label_smoothing, reduction="none")
        if self.settings.loss == "focal":
            confidence_B = logits_BK.softmax(dim=-1).gather(1, labels_B[:, None])[:, 0]
            losses_B = losses_B * (1 - confidence_B) ** self.settings.focal_gamma
        return (losses_B * self.weights_K.to(labels_B.device)[labels_B]).mean()
