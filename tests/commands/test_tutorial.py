"""Covers: docs/tutorial.md, whose commands are typed as they are written, in a copy of the repository."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline import copy_tree, git
from tests.warm import WarmPython

pytestmark = pytest.mark.slow
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
# The server in the background ends with the shell, whatever ends the commands before `kill`.
END_JOBS = """set -m; trap 'for job in $(jobs -p); do kill -- "-$job" || true; done' EXIT"""
# Longer than the commands take on a busy machine. The limit ends the wait for a command that hangs.
TIMEOUT_S = 1800


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def typed(script: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a script by bash with job control, up to the first failure. Return its exit code and what it prints."""
    words = ["bash", "-euo", "pipefail", "-c", f"{END_JOBS}\n{script}"]
    done = subprocess.run(
        words,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout


def test_tutorial_runs_as_written(repo_root: Path, tmp_path: Path, warm_python: WarmPython) -> None:
    # The first block makes the environment that this test runs in.
    _, *blocks = BLOCK.findall((repo_root / "docs" / "tutorial.md").read_text())
    copy_tree(repo_root, tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "copy"]):
        git("-C", str(tmp_path), *words)
    variables = warm_python.environment
    path = os.pathsep.join((variables["PATH"], str(Path(sys.executable).parent)))
    code, printed = typed("\n".join(blocks), tmp_path, {**variables, "PATH": path, "PORT": str(free_port())})
    assert code == 0, printed
    assert "mvsa-clip version 1 keeps its contract" in printed
    assert re.search(r'"predictions": \[\{.*"label": "(negative|neutral|positive)"', printed), printed
    assert (tmp_path / "outputs" / "report" / "index.html").is_file()
