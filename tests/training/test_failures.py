"""The kinds of failure that an exception stands for."""

import pytest
import torch

from src.core.errors import DivergenceError, OutOfMemory, OutOfSpace, UserError
from src.training.failures import Failure, failure_of

MEMORY = "CUDA out of memory. Tried to allocate 20.00 GiB."
ASSERT = "CUDA error: device-side assert triggered"


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (MemoryError(), Failure("out of memory", "out of memory", unfit=True)),
        (torch.OutOfMemoryError(f"{MEMORY}\nmore"), Failure("out of memory", f"out of memory: {MEMORY}", unfit=True)),
        (OutOfMemory("a step takes 9 GB"), Failure("out of memory", "a step takes 9 GB", unfit=True)),
        (OutOfSpace("3.1 MiB left"), Failure("the disk is full", "3.1 MiB left")),
        (DivergenceError("epoch 1"), Failure("the loss is no number", "epoch 1", unfit=True)),
        (torch.AcceleratorError(ASSERT, 710), Failure("the GPU failed", ASSERT, fatal=True)),
        (RuntimeError("CUDA error: unspecified"), Failure("the GPU failed", "CUDA error: unspecified", fatal=True)),
        (KeyError("x"), Failure("KeyError: 'x'", "KeyError: 'x'")),
        (UserError("no layer 9"), Failure("no layer 9", "no layer 9")),
    ],
    ids=lambda item: type(item).__name__ if isinstance(item, Exception) else "",
)
def test_error_is_a_kind_of_failure(error: Exception, failure: Failure) -> None:
    assert failure_of(error) == failure
