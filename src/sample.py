"""Writes the made-up data set that the repository carries: `python -m src.sample` gives the committed bytes again."""

from pathlib import Path

import click

from src.cli.options import command
from src.cli.output import say
from src.core.errors import UserError
from src.core.paths import SAMPLE


@command(example="python -m src.sample --out sample --seed 7")
@click.option("--out", type=click.Path(path_type=Path), default=SAMPLE, show_default=True, help="Folder to write.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=7, show_default=True, help="Another seed makes another data set."
)
def main(out: Path, seed: int) -> None:
    """Make about 120 posts up, in MVSA's layout: drawn pictures and templated captions that carry tone."""
    from src.data.sample import make_sample

    files = make_sample(seed)
    _require_nothing_else(out, files)
    for name, content in files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    say(f"{out}: {len(files)} files, {sum(map(len, files.values())) / 1000:.0f} kB")


def _require_nothing_else(out: Path, files: dict[str, bytes]) -> None:
    # What another seed left would mix into this data set, and what someone else put here is not ours to delete.
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    strange = sorted(found - files.keys())
    if strange:
        raise UserError(
            f"{out} has {len(strange)} other files in it, such as {strange[0]}: remove it or give another --out"
        )


if __name__ == "__main__":
    main()
