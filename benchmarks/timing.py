"""Time work on a GPU or a CPU."""

import time
from collections.abc import Callable

import torch


def seconds_of(work: Callable[[], object], repeats: int) -> list[float]:
    """Return the seconds of each of some runs, after one that is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        wait()
        begun = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - begun)
    return seconds[1:]


def wait() -> None:
    """Wait until the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
