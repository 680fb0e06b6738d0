"""The memory of a training: the micro-batch that a GPU holds, freed memory on a CPU, gradient checkpointing.

The micro-batch does not change the batch of an optimiser step, which the settings give. It changes only the pieces in
which the step is computed. With the pieces change the last digits of a gradient, and the masks of dropout, which are
drawn for each piece.
"""

import ctypes
import math
import sys
from collections.abc import Callable
from typing import Any

import torch

from src.core.errors import OutOfMemory
from src.core.training_config import TrainingConfig
from src.modeling.base import ToneModel
from src.training.dataset import LabelledFeatures
from src.training.distributed import SINGLE_PROCESS, DistributedContext
from src.training.loss import Loss

# This share stays free because two small steps do not show all needs: fragmentation, the optimiser's moments, other
# lengths.
FREE_SHARE = 0.1
_LESS = "set gradient_checkpointing, a lower rank or adapter_layers"


def micro_batch(
    model: ToneModel,
    data: LabelledFeatures,
    settings: TrainingConfig,
    loss: Loss,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> int:
    """Return the number of posts of a step to compute at once.

    On a GPU it is the largest number that fits, elsewhere `settings.batch_size`. With several processes, each one
    computes a share of a step, and all use the smallest of their numbers.

    Raises:
        OutOfMemory: Not even one post fits.
    """
    effective = math.ceil(settings.batch_size * settings.gradient_accumulation_steps / distributed.num_processes)
    if model.device.type != "cuda" or effective == 1:
        return settings.batch_size
    free, _ = torch.cuda.mem_get_info(model.device)
    room = (free + torch.cuda.memory_reserved(model.device)) * (1 - FREE_SHARE)
    # The measured steps draw dropout masks. They must not change the random numbers of the training.
    with torch.random.fork_rng(devices=[model.device]):
        fitting = largest_that_fits(effective, room, lambda posts: _peak(model, data, posts, loss))
    return distributed.min(fitting)


def largest_that_fits(effective: int, room: float, peak: Callable[[int], int]) -> int:
    """Return the largest divisor of `effective` whose step needs at most `room` bytes.

    `peak` measures the bytes of a step of some posts. A step needs a fixed number of bytes and a number for each post.
    So two measured peaks, of one post and of two posts, give the peaks of all other numbers.

    Raises:
        OutOfMemory: Not even one post fits.
    """
    try:
        one = peak(1)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"a step of one post needs more than {room / 1e9:.1f} GB, which are free: {_LESS}") from error
    try:
        bytes_a_post: float = max(0, peak(2) - one)
    except torch.OutOfMemoryError:
        bytes_a_post = room
    divisors = [posts for posts in range(1, effective + 1) if effective % posts == 0]
    fitting = [posts for posts in divisors if one + (posts - 1) * bytes_a_post <= room]
    if not fitting:
        raise OutOfMemory(f"a step of one post takes {one / 1e9:.1f} GB and {room / 1e9:.1f} GB are free: {_LESS}")
    return fitting[-1]


def _peak(model: ToneModel, data: LabelledFeatures, posts: int, loss: Loss) -> int:
    """Return the peak of allocated bytes in a forward and backward pass over the longest posts."""
    lengths = data.features.lengths()
    longest = sorted(range(len(lengths)), key=lambda index: -lengths[index])[:posts]
    torch.cuda.reset_peak_memory_stats(model.device)
    model.train()
    labels_B = data.labels(longest).to(model.device)
    try:
        loss(model(data.batch(longest, model.device), with_image=False), labels_B).backward()  # type: ignore[no-untyped-call]
    finally:
        model.zero_grad(set_to_none=True)
    return torch.cuda.max_memory_allocated(model.device)


# Options of `mallopt` in glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# The largest C int, the type of `mallopt`'s values: no block is that large.
_NEVER = 2**31 - 1


def keep_freed_memory(device: torch.device) -> None:
    """Let a process that trains on the CPU keep the memory that it frees, up to 2 GiB a block.

    The next step needs as much memory again. glibc returns large blocks to the system at once, and the system fills
    each page with zeros when it hands it out again. That takes a twentieth of a step's time (`docs/performance.md`).
    The function does nothing for other devices and other C libraries.
    """
    if device.type != "cpu" or sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, _NEVER)
        library.mallopt(_M_TRIM_THRESHOLD, _NEVER)


def set_checkpointing(backbone: Any, on: bool) -> None:
    """Turn gradient checkpointing of a backbone on or off.

    If it is on, the forward pass keeps only the inputs of each layer, and the backward pass computes the layer again.
    """
    if on:
        # The non-reentrant form reaches adapters inside a frozen base (transformers issue 42489).
        backbone.activation_checkpointing_enable({"use_reentrant": False})
        # This form needs no gradient at the embeddings, and transformers' hooks there would outlive the trial.
        backbone.disable_input_require_grads()
    else:
        backbone.activation_checkpointing_disable()
