"""Dropout for adapters with fast mask generation on the CPU.

An adapter's mask is as large as a layer's input. The head uses torch's dropout, because its masks are small.
"""

import torch
from torch import Tensor, nn

# Probabilities are multiples of 1 / LEVELS: 16 of the 64 random bits of a draw decide one element.
LEVELS = 2**16
_PER_DRAW = 4


class Dropout(nn.Dropout):
    """torch's dropout, but with faster masks on the CPU, where torch draws one random number an element.

    Drawing takes nearly all of the time: a quarter of the draws takes a third of it (`docs/performance.md`). torch's
    seed decides the mask here too.
    """

    def forward(self, values: Tensor) -> Tensor:
        """Set each value to 0 with probability `p`, and scale the others so that the mean stays."""
        if not self.training or not self.p or values.device.type != "cpu":
            return super().forward(values)
        return values * mask(values, self.p)


def mask(values: Tensor, p: float) -> Tensor:
    """Return a mask to multiply values by, of their shape and type; `p` is rounded to a multiple of 1 / LEVELS."""
    dropped, count = min(round(p * LEVELS), LEVELS - 1), values.numel()
    drawn = torch.empty(-(-count // _PER_DRAW), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = drawn[:count].view(values.shape) >= dropped - LEVELS // 2
    return kept.to(values.dtype).mul_(LEVELS / (LEVELS - dropped))
