"""Facts on which this machine's figures depend: GPU, rate of a plain matrix product, versions of libraries.

python -m benchmarks.environment

It prints JSON, one object a line.
"""

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

import torch

from benchmarks.lib.peaks import peak_flops
from benchmarks.lib.timing import seconds_of
from src.cli.options import command
from src.cli.output import say

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "safetensors", "scikit-learn", "numpy", "pillow")
SIDE = 8192


@command(example="python -m benchmarks.environment")
def main() -> None:
    """Print the machine and the library versions."""
    figures = {
        "benchmark": "environment",
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "cuda": torch.version.cuda,
        "gpu": None,
    }
    say(json.dumps(figures))
    if torch.cuda.is_available():
        say(json.dumps(_gpu()))


def _gpu() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    left, right = (torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    rate = 2 * SIDE**3 / median(seconds_of(lambda: left @ right, 10))
    peak = peak_flops(properties.name)
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(total / 2**30, 2),
        "free_gib": round(free / 2**30, 2),
        "product_tflop_per_s": round(rate / 1e12, 1),
        "peak_tflop_per_s": None if peak is None else peak / 1e12,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
