"""What a process does with memory that it frees."""

import subprocess
import sys

import pytest

# The best of several, because the system may take pages away for reasons of its own.
PROGRAM = """
import resource
import torch
from src.training.memory import keep_freed_memory


def pages():
    counts = []
    for _ in range(8):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(10_000_000)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(counts)


sizes = [pages()]
for device in ("cuda", "cpu"):
    keep_freed_memory(torch.device(device))
    sizes.append(pages())
print(*sizes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_freed_memory_is_used_again() -> None:
    """For how many pages the system is asked while 40 MB are taken and freed."""
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, cuda, cpu = map(int, run.stdout.split())
    assert cpu * 20 < min(before, cuda)
