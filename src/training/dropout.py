"""Dropout for adapters, whose masks are as large as a layer's input: they are drawn quickly on a CPU.

A head's are one row a post, for which torch's own does.
"""

import torch
from torch import Tensor, nn

# A mask's probability is a multiple of one in so many: of 64 bits that are drawn, 16 decide one element.
LEVELS = 2**16
_PER_DRAW = 4


class Dropout(nn.Dropout):
    """torch's dropout, with its own masks on a CPU, where torch draws a number of its generator for every element.

    Nearly all of its time is that of drawing: a quarter of the numbers takes a third of it (`docs/performance.md`). The
    seed decides the mask, as it does torch's.
    """

    def forward(self, values: Tensor) -> Tensor:
        """The values, of which each is 0 with probability `p`, else as much larger as keeps the mean."""
        if not self.training or not self.p or values.device.type != "cpu":
            return super().forward(values)
        return values * mask(values, self.p)


def mask(values: Tensor, p: float) -> Tensor:
    """What to multiply values by, of their shape and type; `p` is rounded to a multiple of 1/LEVELS, less than 1."""
    dropped, count = min(round(p * LEVELS), LEVELS - 1), values.numel()
    drawn = torch.empty(-(-count // _PER_DRAW), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = drawn[:count].view(values.shape) >= dropped - LEVELS // 2
    return kept.to(values.dtype).mul_(LEVELS / (LEVELS - dropped))
