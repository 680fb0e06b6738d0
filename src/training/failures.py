"""What kind of failure ended a training, and giving back the memory that it held."""

import gc
from dataclasses import dataclass

import torch

from src.core.errors import DivergenceError, UserError

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")
_GPU = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "NCCL error", "HIP error")


@dataclass(frozen=True)
class Failure:
    """Why a training failed.

    Attributes:
        cause: its kind; failures of one kind in a row mean that the next one would be another.
        reason: one line.
        unfit: whether the settings are to blame, so that a search should avoid their like.
        fatal: whether the process can train no more.
    """

    cause: str
    reason: str
    unfit: bool = False
    fatal: bool = False


def failure_of(error: Exception) -> Failure:
    """What an exception raised by a training says of it."""
    said = str(error.args[0]) if error.args and isinstance(error, torch.AcceleratorError) else str(error)
    reason = next((line.strip() for line in said.splitlines() if line.strip()), type(error).__name__)
    if isinstance(error, DivergenceError):
        return Failure("the loss is no number", reason, unfit=True)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or _says(error, _NO_MEMORY):
        return Failure(
            "out of memory", f"out of memory: {reason}" if reason != "MemoryError" else "out of memory", True
        )
    if isinstance(error, torch.AcceleratorError) or _says(error, _GPU):
        # What comes after an error of the device fails as well: its context is gone.
        return Failure("the GPU failed", reason, fatal=True)
    if isinstance(error, UserError):
        return Failure(reason, reason)
    reason = f"{type(error).__name__}: {reason}"
    return Failure(reason, reason)


def release_memory() -> None:
    """Return what a failed training held, to the allocator and to other processes on the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _says(error: Exception, words: tuple[str, ...]) -> bool:
    return isinstance(error, RuntimeError) and any(word.lower() in str(error).lower() for word in words)
