"""The classifier that a trial may put on a model's pooled states."""

from torch import Tensor, nn

from src.core.labels import TONES
from src.core.settings import FitParams


class ClassifierHead(nn.Sequential):
    """Layer norm, then 0 to 2 hidden layers (GELU), then one logit a tone; dropout before every linear layer.

    The norm makes one learning rate fit the pooled states of all models, whose scales differ by orders of magnitude.
    """

    def __init__(self, width: int, settings: FitParams) -> None:
        layers: list[nn.Module] = [nn.LayerNorm(width)]
        for depth in range(settings.head_layers):
            hidden = settings.head_width // 2**depth
            layers += [nn.Dropout(settings.dropout), nn.Linear(width, hidden), nn.GELU()]
            width = hidden
        super().__init__(*layers, nn.Dropout(settings.dropout), nn.Linear(width, len(TONES)))

    def forward(self, pooled_BD: Tensor) -> Tensor:
        """logits_BK."""
        logits_BK: Tensor = super().forward(pooled_BD)  # type: ignore[no-untyped-call]
        return logits_BK
