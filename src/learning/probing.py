"""How many posts a GPU holds at once: found by two trial steps, so that a step's batch is cut no smaller than it must.

The batch of an optimiser step is the settings' own whatever comes out here; only the pieces in which it is computed
differ, and with them the last digits of a gradient.
"""

import math
from collections.abc import Callable

import torch

from src.core.errors import Refusal
from src.core.settings import FitParams
from src.learning.losses import Loss
from src.learning.parallel import ALONE, Parallel
from src.learning.scoring import Labelled
from src.models.base import ToneModel

# Left free for what two small steps do not show: fragmentation, the optimiser's moments, other lengths.
FREE_SHARE = 0.1


def micro_batch(model: ToneModel, data: Labelled, settings: FitParams, loss: Loss, parallel: Parallel = ALONE) -> int:
    """How many posts of a step to compute at once: on a GPU as many as fit, elsewhere `settings.batch_size`.

    Of several processes each computes a share of a step, and all take what fits in each.

    Raises:
        Refusal: not even one post fits.
    """
    effective = math.ceil(settings.batch_size * settings.accumulation / parallel.num_processes)
    if model.device.type != "cuda" or effective == 1:
        return settings.batch_size
    free, _ = torch.cuda.mem_get_info(model.device)
    room = (free + torch.cuda.memory_reserved(model.device)) * (1 - FREE_SHARE)
    with torch.random.fork_rng(devices=[model.device]):
        fitting = largest_that_fits(effective, room, lambda posts: _peak(model, data, posts, loss))
    return parallel.least(fitting)


def largest_that_fits(effective: int, room: float, peak: Callable[[int], int]) -> int:
    """The largest number that divides `effective` and whose peak of bytes is within `room`.

    A step's memory is a fixed part and a part for each post, so that two measured peaks, of one post and of two, tell
    those of all other numbers.

    Raises:
        Refusal: not even one post fits.
    """
    one, two = peak(1), peak(2)
    each = max(0, two - one)
    divisors = [posts for posts in range(1, effective + 1) if effective % posts == 0]
    fitting = [posts for posts in divisors if one + (posts - 1) * each <= room]
    if not fitting:
        raise Refusal(
            f"a step of one post takes {one / 1e9:.1f} GB and {room / 1e9:.1f} GB are free: "
            "set checkpointing, a lower rank or adapt_layers"
        )
    return fitting[-1]


def _peak(model: ToneModel, data: Labelled, posts: int, loss: Loss) -> int:
    """Bytes held at most while the longest posts go forward and back."""
    lengths = data.features.lengths()
    longest = sorted(range(len(lengths)), key=lambda index: -lengths[index])[:posts]
    torch.cuda.reset_peak_memory_stats(model.device)
    model.train()
    labels_B = data.labels(longest).to(model.device)
    loss(model(data.batch(longest, model.device)), labels_B).backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)
    return torch.cuda.max_memory_allocated(model.device)
