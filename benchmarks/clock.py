"""What a piece of work takes: wall-clock time, and the processors' time in this process and in those it has started."""

import gc
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Spent:
    """Seconds: on the wall, and of all processors together."""

    wall_s: float
    cpu_s: float


def timed(work: Callable[[], T]) -> tuple[T, Spent]:
    """What `work` gives and takes; the processes that it starts must have ended with it to be counted."""
    gc.collect()
    wall_s, cpu_s = time.perf_counter(), _cpu_s()
    result = work()
    return result, Spent(time.perf_counter() - wall_s, _cpu_s() - cpu_s)


def _cpu_s() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
