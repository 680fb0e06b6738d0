"""Holds a registered version to its contract: docs/contract.md says what is compared.

python -m src.verify models:/mvsa-clip@champion
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from src.cli.options import command
from src.cli.output import say, warn


@command(example="python -m src.verify models:/mvsa-clip@champion")
@click.argument("version")
def main(version: str) -> None:
    """Load VERSION, an address in the registry or a downloaded version's folder, and hold it to its contract.

    A version of the registry is loaded by the code that came with it, in a process of its own: as it will be served.
    """
    if Path(version).is_dir():
        _verify(Path(version))
        return
    from src.registry import registry

    _, found = registry.version_at(version)
    with tempfile.TemporaryDirectory() as folder:
        exit_code = _verify_apart(registry.download(found, Path(folder)))
    if exit_code:
        sys.exit(exit_code)
    say(f"{found.name} version {found.number} holds its contract")


def _verify_apart(folder: Path) -> int:
    """Verify a downloaded version with its own code; returns the exit code."""
    from src.registry.pyfunc import code_package

    code = folder / "code"
    environment = {**os.environ, "PYTHONPATH": str(code)}
    words = [sys.executable, "-m", f"{code_package(folder)}.verify", str(folder)]
    return subprocess.run(words, cwd=code, env=environment, check=False).returncode


def _verify(folder: Path) -> None:
    from src.registry.loading import load_version
    from src.registry.pyfunc import artifacts_in

    loaded = load_version(artifacts_in(folder.resolve()))
    contract = loaded.contract
    for remark in loaded.remarks:
        warn(remark)
    say(f"base: {contract.checkpoint.source} at {contract.checkpoint.revision}")
    say(f"adapter: {len(contract.adapted_modules)} modules and the head, whole and trained")
    say(f"golden posts: {len(contract.golden)} answered, logits off by {loaded.off:.2g} ({loaded.allowed:.2g} allowed)")


if __name__ == "__main__":
    main()
