"""Command `sample`: write the made-up data set. `python -m src.sample` gives the committed bytes again."""

from pathlib import Path

import click

from src.cli.options import command
from src.cli.output import say
from src.core.paths import SAMPLE


@command(example="python -m src.sample --out sample --seed 7")
@click.option("--out", type=click.Path(path_type=Path), default=SAMPLE, show_default=True, help="Folder to write.")
@click.option("--seed", type=click.IntRange(min=0), default=7, show_default=True, help="Seed of the data set.")
def main(out: Path, seed: int) -> None:
    """Make up about 120 posts in MVSA's layout: drawn images, and captions from templates that carry a tone."""
    from src.data.sample import write_sample

    files = write_sample(out, seed)
    say(f"{out}: {len(files)} files, {sum(map(len, files.values())) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
