"""What a process does with memory that it frees."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from src.learning.allocator import keep_freed_memory

if {keeps}:
    keep_freed_memory()


def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(12):
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


pages()
print(pages())
"""


def pages_asked_for(keeps: bool) -> int:
    """How often the system is asked for a page while 40 MB are taken and freed 12 times, after as much before."""
    program = [sys.executable, "-c", PROGRAM.format(keeps=keeps)]
    run = subprocess.run(program, capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_what_is_freed_is_used_again() -> None:
    assert pages_asked_for(keeps=True) * 20 < pages_asked_for(keeps=False)
