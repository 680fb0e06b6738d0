"""Check that a version keeps its contract, with the code that came with the version or with this repository's."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from src.registry import registry
from src.registry.loading import LoadedVersion, load_version
from src.registry.pyfunc import artifacts_in, code_package
from src.registry.registry import Version


def verify_registered(address: str) -> tuple[Version, int]:
    """Check a registered version with its own code, in a process of its own that prints the result.

    Returns:
        The version, and the exit code of the process.

    Raises:
        UserError: there is no such version, or its files are gone.
    """
    _, version = registry.version_at(address)
    with tempfile.TemporaryDirectory() as temporary:
        folder = registry.download(version, Path(temporary))
        # The process must not import this repository's `src`, so it starts in the version's folder of code.
        code = folder / "code"
        command = [sys.executable, "-m", f"{code_package(folder)}.verify", str(folder)]
        done = subprocess.run(command, cwd=code, env={**os.environ, "PYTHONPATH": str(code)}, check=False)
    return version, done.returncode


def verify_folder(folder: Path) -> LoadedVersion:
    """Load a downloaded version with this code, and check it against its contract.

    Raises:
        UserError: the folder holds no version, or the version breaks its contract.
    """
    return load_version(artifacts_in(folder.resolve()))
