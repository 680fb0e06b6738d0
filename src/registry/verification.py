"""Check that a version keeps its contract, with the code that came with the version or with this repository's."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from src.registry import registry
from src.registry.ensemble_contract import ENSEMBLE
from src.registry.loading import LoadedVersion, load_version
from src.registry.pyfunc import artifacts_in, code_package
from src.registry.registry import Version
from src.tracking.store import STORE_VARIABLE, absolute_uri

if TYPE_CHECKING:
    from src.registry.ensemble import LoadedEnsemble

Loaded: TypeAlias = "LoadedVersion | LoadedEnsemble"


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
        # The version of an ensemble reads its members' versions from the store.
        environment = {**os.environ, "PYTHONPATH": str(code), STORE_VARIABLE: absolute_uri()}
        done = subprocess.run(command, cwd=code, env=environment, check=False)
    return version, done.returncode


def verify_folder(folder: Path) -> Loaded:
    """Load a downloaded version with this code, and check it against its contract.

    Raises:
        UserError: the folder holds no version, or the version breaks its contract.
    """
    return load(artifacts_in(folder.resolve()))


def load(artifacts: Mapping[str, str]) -> Loaded:
    """Load a version from its artifacts, an adapter or an ensemble, and check it against its contract.

    Raises:
        UserError: the version breaks its contract.
    """
    if ENSEMBLE not in artifacts:
        return load_version(artifacts)
    # The version of an adapter does not require the libraries of an ensemble.
    from src.registry.ensemble import load_ensemble

    return load_ensemble(artifacts)
