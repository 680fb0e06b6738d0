"""What a training minimises."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from src.core.config import FitParams


def loss(logits_BK: Tensor, labels_B: Tensor, settings: FitParams) -> Tensor:
    """Mean cross-entropy over the batch, in nats, with label smoothing (C. Szegedy et al., CVPR 2016, section 7)."""
    return cross_entropy(logits_BK, labels_B, label_smoothing=settings.label_smoothing)
