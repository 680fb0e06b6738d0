"""What a process does with memory that it frees."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from src.training.memory import keep_freed_memory


def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


sizes = [pages()]
for device in ("cuda", "cpu"):
    keep_freed_memory(torch.device(device))
    pages()
    sizes.append(pages())
print(*sizes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_freed_memory_is_used_again() -> None:
    """How often the system is asked for a page while 40 MB are taken and freed four times."""
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, cuda, cpu = map(int, run.stdout.split())
    assert cpu * 20 < min(before, cuda)
