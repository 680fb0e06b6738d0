"""Check that a version keeps its contract; docs/contract.md says what is compared.

python -m src.verify models:/mvsa-clip@champion
"""

import sys
from pathlib import Path

import click

from src.cli.options import command
from src.cli.output import say, warn


@command(example="python -m src.verify models:/mvsa-clip@champion")
@click.argument("version")
def main(version: str) -> None:
    """Check that VERSION keeps its contract. VERSION is an address in the registry, or a downloaded version's folder.

    A version of the registry is loaded by the code that came with it, in a process of its own, as it will be served.
    """
    from src.registry.verification import verify_folder, verify_registered

    if not Path(version).is_dir():
        registered, exit_code = verify_registered(version)
        if exit_code:
            sys.exit(exit_code)
        say(f"{registered.name} version {registered.number} keeps its contract")
        return
    loaded = verify_folder(Path(version))
    for warning in loaded.warnings:
        warn(warning)
    for line in loaded.summary():
        say(line)


if __name__ == "__main__":
    main()
