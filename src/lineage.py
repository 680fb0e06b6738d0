"""Print the lineage of a registered version, back to the raw data, and whether each link holds in this repository.

python -m src.lineage models:/mvsa-clip@champion
"""

import click

from src.cli.options import command
from src.cli.output import say, table
from src.core.errors import UserError


@command(example="python -m src.lineage models:/mvsa-clip@champion")
@click.argument("version")
def main(version: str) -> None:
    """Print the lineage of VERSION, an address in the registry. The exit code is 1 if a link does not hold."""
    from src.registry.lineage import lineage_of

    lineage = lineage_of(version)
    score = lineage.contract.validation["macro_f1"]
    say(f"{lineage.version.name} version {lineage.version.number}: validation macro-F1 {score:.4f}")
    rows = [(link.name, link.recorded, link.fault or "holds") for link in lineage.links]
    table("", ["link", "recorded", "today"], rows)
    if lineage.broken:
        first = lineage.broken[0]
        num_broken = f"{len(lineage.broken)} of {len(lineage.links)}"
        raise UserError(f"the lineage is broken at {num_broken} links: {first.name}, {first.fault}")


if __name__ == "__main__":
    main()
