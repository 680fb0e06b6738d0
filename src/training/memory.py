"""Memory of a training: the micro-batch a GPU holds, freed memory on a CPU, gradient checkpointing.

The batch of an optimiser step is the settings' own whatever comes out here; only the pieces in which it is computed
differ, and with them the last digits of a gradient.
"""

import ctypes
import math
import sys
from collections.abc import Callable
from typing import Any

import torch

from src.core.errors import UserError
from src.core.training_config import TrainingConfig
from src.modeling.base import ToneModel
from src.training.dataset import LabelledFeatures
from src.training.distributed import SINGLE_PROCESS, DistributedContext
from src.training.loss import Loss

# Left free for what two small steps do not show: fragmentation, the optimiser's moments, other lengths.
FREE_SHARE = 0.1


def micro_batch(
    model: ToneModel,
    data: LabelledFeatures,
    settings: TrainingConfig,
    loss: Loss,
    parallel: DistributedContext = SINGLE_PROCESS,
) -> int:
    """How many posts of a step to compute at once: on a GPU as many as fit, elsewhere `settings.batch_size`.

    Of several processes each computes a share of a step, and all take what fits in each.

    Raises:
        UserError: not even one post fits.
    """
    effective = math.ceil(settings.batch_size * settings.gradient_accumulation_steps / parallel.num_processes)
    if model.device.type != "cuda" or effective == 1:
        return settings.batch_size
    free, _ = torch.cuda.mem_get_info(model.device)
    room = (free + torch.cuda.memory_reserved(model.device)) * (1 - FREE_SHARE)
    with torch.random.fork_rng(devices=[model.device]):
        fitting = largest_that_fits(effective, room, lambda posts: _peak(model, data, posts, loss))
    return parallel.min(fitting)


def largest_that_fits(effective: int, room: float, peak: Callable[[int], int]) -> int:
    """The largest number that divides `effective` and whose peak of bytes is within `room`.

    A step's memory is a fixed part and a part for each post, so that two measured peaks, of one post and of two, tell
    those of all other numbers.

    Raises:
        UserError: not even one post fits.
    """
    one, two = peak(1), peak(2)
    each = max(0, two - one)
    divisors = [posts for posts in range(1, effective + 1) if effective % posts == 0]
    fitting = [posts for posts in divisors if one + (posts - 1) * each <= room]
    if not fitting:
        raise UserError(
            f"a step of one post takes {one / 1e9:.1f} GB and {room / 1e9:.1f} GB are free: "
            "set checkpointing, a lower rank or adapt_layers"
        )
    return fitting[-1]


def _peak(model: ToneModel, data: LabelledFeatures, posts: int, loss: Loss) -> int:
    """Bytes held at most while the longest posts go forward and back."""
    lengths = data.features.lengths()
    longest = sorted(range(len(lengths)), key=lambda index: -lengths[index])[:posts]
    torch.cuda.reset_peak_memory_stats(model.device)
    model.train()
    labels_B = data.labels(longest).to(model.device)
    loss(model(data.batch(longest, model.device)), labels_B).backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)
    return torch.cuda.max_memory_allocated(model.device)


# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


_NEVER = 2**31 - 1


def keep_freed_memory(device: torch.device) -> None:
    """Have a process that trains on the CPU keep what it frees, up to 2 GiB a block: the next step takes as much again.

    glibc gives large blocks back to the system at once, and the system hands them out again page by page, each filled
    with zeros: a twentieth of a step's time (`docs/performance.md`). On other devices, and with another C library,
    nothing is done.
    """
    if device.type != "cpu" or sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, _NEVER)
        library.mallopt(_M_TRIM_THRESHOLD, _NEVER)


def set_checkpointing(backbone: Any, on: bool) -> None:
    """Keep the activations of all layers or, if `on`, their inputs alone and run them again on the way back."""
    # transformers 5.23 has renamed gradient_checkpointing to activation_checkpointing.
    kind = "activation" if hasattr(backbone, "activation_checkpointing_enable") else "gradient"
    if on:
        # The non-reentrant form reaches adapters inside a frozen base (transformers issue 42489).
        getattr(backbone, f"{kind}_checkpointing_enable")({"use_reentrant": False})
        # It needs no gradient at the embeddings, and transformers' hooks there would outlive the trial.
        backbone.disable_input_require_grads()
    else:
        getattr(backbone, f"{kind}_checkpointing_disable")()
