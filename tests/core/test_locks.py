"""Turns between real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.core.errors import UserError
from src.core.locks import lock, try_lock

HOLD = """
import sys, time
from pathlib import Path
from src.core.locks import lock, try_lock
take = {"try_lock": lambda file: try_lock(file, "work"), "lock": lock}[sys.argv[1]]
with take(Path(sys.argv[2])):
    print("in", flush=True)
    time.sleep(60)
"""


def hold(kind: str, file: Path, root: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLD, kind, str(file)]
    process = subprocess.Popen(command, cwd=root, text=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    return process


def test_second_process_is_refused(tmp_path: Path, repo_root: Path) -> None:
    file = tmp_path / "new" / "clip.lock"
    process = hold("try_lock", file, repo_root)
    for _ in range(2):
        with pytest.raises(UserError, match=rf"another process \(pid {process.pid}\) is running it"):
            try_lock(file, "it").__enter__()
    process.kill()
    process.communicate()
    with try_lock(file, "it"):
        assert (tmp_path / "new" / "clip.pid").read_text() == str(os.getpid())
        with pytest.raises(UserError, match=f"pid {os.getpid()}"):
            try_lock(file, "it").__enter__()


def test_killed_process_releases_lock(tmp_path: Path, repo_root: Path) -> None:
    file = tmp_path / "store.lock"
    process = hold("lock", file, repo_root)
    with pytest.raises(UserError):
        try_lock(file, "it").__enter__()
    process.kill()
    process.communicate()
    with lock(file):
        pass
    with lock(file):
        pass


def test_forked_child_keeps_no_lock(tmp_path: Path) -> None:
    file = tmp_path / "store.lock"
    with lock(file):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    with try_lock(file, "it"):
        child.kill()
        child.communicate()
