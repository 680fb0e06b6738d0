"""What a process does with memory that it frees."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from src.learning.allocator import keep_freed_memory

if {device!r}:
    keep_freed_memory(torch.device({device!r}))


def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(12):
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


pages()
print(pages())
"""


def pages_asked_for(device: str = "") -> int:
    """How often the system is asked for a page while 40 MB are taken and freed 12 times, after as much before.

    A process that trains on a device has been told to keep its memory.
    """
    program = [sys.executable, "-c", PROGRAM.format(device=device)]
    run = subprocess.run(program, capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_what_is_freed_is_used_again_by_a_training_on_the_cpu() -> None:
    pages = {device: pages_asked_for(device) for device in ("cpu", "cuda", "")}
    assert pages["cpu"] * 20 < min(pages["cuda"], pages[""])
