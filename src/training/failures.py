"""The kinds of failure that end a training, and the release of the memory that the training held."""

import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from src.core.errors import DivergenceError, OutOfMemory, OutOfSpace, UserError, is_out_of_memory

# The cause that an error of ours stands for, and whether the settings are to blame.
_CAUSES = (
    (DivergenceError, "the loss is no number", True),
    (OutOfMemory, "out of memory", True),
    (OutOfSpace, "the disk is full", False),
)
_GPU = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "NCCL error", "HIP error")


@dataclass(frozen=True)
class Failure:
    """The reason of a training's failure, and its consequences for a study."""

    # The kind of failure; several failures of one kind in a row predict that the next trial fails too.
    cause: str
    # The error's message, in one line.
    reason: str
    # Whether the settings caused the failure, so that the sampler should avoid similar settings.
    unfit: bool = False
    # Whether this process can no longer train.
    fatal: bool = False


def failure_of(error: Exception) -> Failure:
    """Return the failure that an exception of a training stands for."""
    # `first_line` does not fit: a message may begin with an empty line, and that of a device's error is its argument.
    message = str(error.args[0]) if error.args and isinstance(error, torch.AcceleratorError) else str(error)
    reason = next((line.strip() for line in message.splitlines() if line.strip()), type(error).__name__)
    for kind, cause, unfit in _CAUSES:
        if isinstance(error, kind):
            return Failure(cause, reason, unfit)
    if is_out_of_memory(error):
        return Failure(
            "out of memory", f"out of memory: {reason}" if reason != "MemoryError" else "out of memory", True
        )
    if isinstance(error, torch.AcceleratorError) or _is_of_gpu(error):
        # The error destroys the process's context on the device: every later call fails too.
        return Failure("the GPU failed", reason, fatal=True)
    if isinstance(error, UserError):
        return Failure(reason, reason)
    reason = f"{type(error).__name__}: {reason}"
    return Failure(reason, reason)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise errors of the system, such as a full disk, as OSError while safetensors writes below `path`."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def release_memory() -> None:
    """Free the memory that a failed training held, for the next training and for other processes on the GPU."""
    # Objects of the failed training may refer to each other in cycles, which only the collector frees.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _is_of_gpu(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _GPU)
