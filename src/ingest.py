"""Command `ingest`: point data.dvc at a folder in MVSA's layout. `dvc repro` then imports the folder and runs on it."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from src.cli.options import command
from src.cli.output import say
from src.core.labels import label_of, protocols_of
from src.core.paths import DATA_DVC

if TYPE_CHECKING:
    from src.data.mvsa import DatasetIndex


@command(example="python -m src.ingest ~/Downloads/MVSA-Single && dvc repro")
@click.argument("path", type=click.Path(path_type=Path))
def main(path: Path) -> None:
    """Point data.dvc at PATH: a folder with labelResultAll.txt and data/ in it, or a folder around that one."""
    from src.data.dvc_import import point_data_at

    result = point_data_at(path)
    _print_index(result.index)
    verb = "now points" if result.changed else "points already"
    say(f"{DATA_DVC} {verb} at {result.index.root}; next: `dvc repro`")


def _print_index(index: "DatasetIndex") -> None:
    say(f"{index.root}: {len(index.pairs) + len(index.dropped):,} posts, {len(index.pairs):,} complete")
    say(f"  annotators a post: {index.num_annotators}; posts without a majority: {index.num_undecided:,}")
    for reason, count in Counter(post.reason for post in index.dropped).most_common():
        say(f"  to be left out, {reason}: {count:,}")
    for variant, count in index.variants.items():
        say(f"  read in spite of {variant}: {count:,}")
    names = sorted({label for pair in index.pairs.values() for label in pair})
    for protocol in protocols_of(names):
        counts = Counter(label_of(protocol, *pair) for pair in index.pairs.values())
        say(f"  {protocol}: {', '.join(f'{counts[label]:,} {label}' for label in names)}")


if __name__ == "__main__":
    main()
