"""What the C library does with memory that a training on the CPU frees."""

import ctypes
import sys

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Have this process keep what it frees, up to 2 GiB at a time: the next training step takes as much again.

    glibc gives large blocks back to the system at once, and the system hands them out again page by page, each filled
    with zeros: up to a tenth of a step's time (`docs/performance.md`). Nothing is done where the C library is another.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, _NEVER)
        library.mallopt(_M_TRIM_THRESHOLD, _NEVER)
