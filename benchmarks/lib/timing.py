"""Clocks: seconds of one piece of work with its processor time, and seconds of repeated runs on a GPU or CPU."""

import gc
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Spent:
    """The time that one piece of work took, in seconds."""

    wall_s: float
    # Summed over all cores, for this process and its ended children.
    cpu_s: float


def timed(work: Callable[[], T]) -> tuple[T, Spent]:
    """Return the result of `work` and its time. Child processes count only if they ended within `work`."""
    gc.collect()
    start_wall_s = time.perf_counter()
    start_cpu_s = _cpu_s()
    result = work()
    return result, Spent(time.perf_counter() - start_wall_s, _cpu_s() - start_cpu_s)


def _cpu_s() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def seconds_of(work: Callable[[], object], repeats: int) -> list[float]:
    """Return the seconds of `repeats` runs, after one warm-up run that is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        synchronize()
        begun = time.perf_counter()
        work()
        synchronize()
        seconds.append(time.perf_counter() - begun)
    return seconds[1:]


def synchronize() -> None:
    """Wait until the GPU has finished all kernels in its queue."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
