"""What the C library does with memory that a training on the CPU frees."""

import ctypes
import sys

import torch

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
