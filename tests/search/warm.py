"""The command `tune` of one small model in a process that starts quickly."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from src.search.study import Study
from src.search.trial import EPOCH, TrialRecord
from tests.warm import Running, WarmPython

BEFORE_EACH_TRAINING = """
import os
import torch
from src.training import train_and_test
real, calls = train_and_test.fit, []
def fit(*args):
    calls.append(1)
    {fault}
    return real(*args)
train_and_test.fit = fit
"""

# While this file exists, the trials with the number in it or a higher one end no epoch.
HELD = Path("held")
HOLD = f"""
import contextlib, pathlib, time
from optuna import Trial
real = Trial.set_user_attr
def set_user_attr(self, key, value):
    real(self, key, value)
    if key.startswith("{EPOCH}"):
        with contextlib.suppress(FileNotFoundError):
            while self.number >= int(pathlib.Path("{HELD}").read_text()):
                time.sleep(0.02)
Trial.set_user_attr = set_user_attr
"""


def hold_from(number: int) -> None:
    """Hold the trials with this number or a higher one after their next epoch, in commands of `start_held`."""
    # No worker reads half of a file that is renamed.
    written = HELD.with_suffix(".new")
    written.write_text(str(number))
    written.rename(HELD)


def running(study: Study) -> list[TrialRecord]:
    """Return the trials that run and have reported an epoch."""
    return [trial for trial in study.trials() if trial.state == "running" and trial.epochs]


def wait(until: Callable[[], bool], command: Running | None = None) -> None:
    """Wait until something is true, two minutes at most. A command that ends before fails the test with its output."""
    for _ in range(2400):
        if until():
            return
        assert command is None or command.is_running, command.wait()
        time.sleep(0.05)
    raise AssertionError


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

    def start_held(self, *words: str) -> Running:
        """Start the command. It and its workers hold trials as `hold_from` says."""
        return self._python.start(Path.cwd(), "src.tune", "--model", "clip", *words, before=HOLD)

    def run(self, *words: str, code: int = 0, fault: str = "", environment: Mapping[str, str] | None = None) -> str:
        """Run the command to its end, and return its output."""
        return self.start(*words, fault=fault, environment=environment).output(code)
