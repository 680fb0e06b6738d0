"""The command `tune` in processes of their own that need not load their libraries anew: seconds saved each time.

A process that has loaded them all becomes the command by forking. What is run, stopped and killed is a real process.
"""

import os
import subprocess
import sys
from pathlib import Path

LOADED = """
import os, sys, warnings
warnings.simplefilter("ignore")
import matplotlib.backends.backend_agg, matplotlib.figure, mlflow, mlflow.store.tracking.sqlalchemy_store
import optuna, optuna.storages._rdb.storage, peft, sklearn.ensemble, sklearn.metrics, torch
import src.models.clip, src.search.dry_run, src.search.outcome, src.search.session
import src.search.trial as trial
from src.tune import main

def become_the_command(folder, fault, words):
    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    real, calls = trial.fit, []
    def fit(*args):
        calls.append(1)
        exec(fault)
        return real(*args)
    trial.fit = fit
    sys.orig_argv = [sys.executable, "-m", "src.tune", *words]
    main(words)

for line in sys.stdin:
    request = eval(line)
    child = os.fork()
    if child == 0:
        os.environ.update(request["environment"])
        become_the_command(request["folder"], request["fault"], request["words"])
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class WarmCommand:
    """Starts `tune` in the current folder, as often as wanted, one after the other."""

    def __init__(self, root: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        self._parent = subprocess.Popen(
            [sys.executable, "-c", LOADED], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def start(self, *words: str, fault: str = "", environment: dict[str, str] | None = None) -> int:
        """Start the command; returns its process id. `fault` is done before each training, which `calls` counts."""
        request = {
            "folder": str(Path.cwd()),
            "words": ["--model", "clip", *words],
            "fault": fault,
            "environment": environment or {},
        }
        assert self._parent.stdin is not None
        self._parent.stdin.write(f"{request!r}\n")
        self._parent.stdin.flush()
        return int(self._line())

    def wait(self) -> tuple[int, str]:
        """The exit code (less than 0: the signal that killed it) and what was said."""
        return int(self._line()), Path("log.txt").read_text()

    def run(self, *words: str, code: int = 0, fault: str = "", environment: dict[str, str] | None = None) -> str:
        """Run the command to its end; returns what it says."""
        self.start(*words, fault=fault, environment=environment)
        found, said = self.wait()
        assert found == code, said
        return said

    def close(self) -> None:
        """End the process that waits."""
        self._parent.communicate()

    def _line(self) -> str:
        assert self._parent.stdout is not None
        return self._parent.stdout.readline()
