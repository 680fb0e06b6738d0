"""Covers: the garbage collector of a command's process, while it runs and when it ends."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import atexit, gc
# Runs last: the handlers run in turn, the youngest first.
atexit.register(lambda: print(gc.get_freeze_count() > 0))
from src.cli.options import command

@command()
def main():
    print(gc.get_threshold()[0], gc.isenabled(), gc.get_freeze_count())

main()
"""


def test_command_collects_rarely_and_not_at_its_end(repo_root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=repo_root, capture_output=True, text=True, check=True)
    threshold, is_enabled, *frozen = done.stdout.split()
    assert int(threshold) > 10_000 and is_enabled == "True"
    assert frozen == ["0", "True"]
