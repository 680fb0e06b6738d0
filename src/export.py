"""Export a registered version as a folder in the Hub's layout.

python -m src.export models:/mvsa-clip@champion --out mvsa-clip
python -m src.export models:/mvsa-clip@champion --out mvsa-clip-merged --merge
"""

from pathlib import Path

import click

from src.cli.options import command
from src.cli.output import say, warn


@command(example="python -m src.export models:/mvsa-clip@champion --out mvsa-clip")
@click.argument("version")
@click.option("--out", "folder", type=click.Path(path_type=Path), required=True, help="A new or empty folder.")
@click.option("--merge", is_flag=True, help="Merge the adapter into the base's weights, in float32.")
def main(version: str, folder: Path, merge: bool) -> None:
    """Write VERSION, an address in the registry, as a folder in the layout of the Hub.

    The folder's model card shows code that loads the version with transformers and peft. The command runs this code
    before the folder gets its name, and checks that the golden posts get the logits of the contract.
    """
    from src.registry.export import export_version

    exported = export_version(version, folder.resolve(), merge=merge)
    warn(
        f"the folder holds the images and captions of {exported.num_golden} posts of the validation part: "
        "keep it as private as the data"
    )
    how = "merged into its base" if merge else "as an adapter"
    say(f"{exported.version.name} version {exported.version.number} is in {folder.resolve()}, {how}")
    say(
        "golden posts: answered by the model card's own code, "
        f"logits off by {exported.difference:.2g} ({exported.allowed:.2g} allowed)"
    )


if __name__ == "__main__":
    main()
