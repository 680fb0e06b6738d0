"""The command `tune` of one small model in a process that starts quickly."""

from collections.abc import Mapping
from pathlib import Path

from tests.warm import Running, WarmPython

BEFORE_EACH_TRAINING = """
import torch
from src.training import train_and_test
real, calls = train_and_test.fit, []
def fit(*args):
    calls.append(1)
    {fault}
    return real(*args)
train_and_test.fit = fit
"""


class WarmCommand:
    """Runs `tune` in the current folder.

    `fault` is one line of Python that runs before each training. `calls` counts the trainings.
    """

    def __init__(self, python: WarmPython) -> None:
        self._python = python

    def start(self, *words: str, fault: str = "", environment: Mapping[str, str] | None = None) -> Running:
        """Start the command."""
        before = BEFORE_EACH_TRAINING.format(fault=fault) if fault else ""
        words = ("--model", "clip", *words)
        return self._python.start(Path.cwd(), "src.tune", *words, before=before, environment=environment)

    def run(self, *words: str, code: int = 0, fault: str = "", environment: Mapping[str, str] | None = None) -> str:
        """Run the command to its end, and return its output."""
        return self.start(*words, fault=fault, environment=environment).output(code)
