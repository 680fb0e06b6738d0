"""Command `ingest`: point data.dvc at labelled posts, in a table or a folder. `dvc repro` then imports the posts."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from src.cli.options import column_option, command
from src.cli.output import progress, say
from src.core.config import load_params
from src.core.labels import label_of, protocols_of
from src.core.paths import DATA_DVC, PARAMS
from src.data.columns import LABELLED_COLUMNS

if TYPE_CHECKING:
    from src.data.reading import DatasetIndex

# The number of posts that a line names.
MAX_NAMED = 5


@command(example="python -m src.ingest posts.csv --column text=tweet --column label=sentiment && dvc repro")
@click.argument("path", type=click.Path(path_type=Path))
@column_option(LABELLED_COLUMNS)
@click.option(
    "--to", type=click.Path(path_type=Path), help="Where a table is imported to.  [default: PATH.imported, beside it]"
)
def main(path: Path, columns: Mapping[str, str], to: Path | None) -> None:
    """Point data.dvc at the posts in PATH: a table, an image folder, or a folder in MVSA's layout or around one.

    A table is a CSV, TSV, JSON Lines (.jsonl) or Parquet file. Its columns are image (a path, from the table's folder),
    text, and label; or text_label and image_label in place of label. Optional are id, split (train, val or test) and
    group (posts that a grouped split keeps in one part). An image folder of Hugging Face's datasets holds such a table,
    metadata.csv, itself or in folders for the parts.

    A table is copied with its images to a folder, whole or not at all. Rows that cannot be used are left out; the
    reasons are counted here, and listed in left_out.csv there. Run the command again when the table has changed.
    """
    from src.data.dvc_import import point_data_at

    with progress(None, "copying posts", "post") as bar:
        result = point_data_at(path, names=columns, folder=to, on_post=bar.advance)
    _print_index(path, result.index)
    verb = "now points" if result.changed else "points already"
    say(f"{DATA_DVC} {verb} at {result.root}; next: `dvc repro`")


def _print_index(path: Path, index: "DatasetIndex") -> None:
    say(f"{path}: {len(index.posts) + len(index.dropped):,} posts, {len(index.posts):,} complete")
    if index.num_annotators is not None:
        say(f"  annotators a post: {index.num_annotators}; posts without a majority: {index.num_undecided:,}")
    for reason, ids in _left_out(index):
        more = ", ..." if len(ids) > MAX_NAMED else ""
        say(f"  to be left out, {reason}: {len(ids):,} ({', '.join(ids[:MAX_NAMED])}{more})")
    for variant, count in index.variants.items():
        say(f"  read in spite of {variant}: {count:,}")
    names = sorted({label for pair in index.pairs.values() for label in pair})
    for protocol in protocols_of(names):
        counts = Counter(label_of(protocol, *pair) for pair in index.pairs.values())
        say(f"  {protocol}: {', '.join(f'{counts[label]:,} {label}' for label in names)}")
    parts = Counter(post.part for post in index.posts.values() if post.part)
    if parts:
        say(f"  split: {', '.join(f'{count:,} {part}' for part, count in parts.items())}")
    groups = {post.group for post in index.posts.values() if post.group}
    if groups:
        say(f"  groups: {len(groups):,}")


def _left_out(index: "DatasetIndex") -> list[tuple[str, list[str]]]:
    """Return the reasons why posts are left out, by the import or by `prepare`, with the ids of the posts."""
    ids_of = defaultdict(list)
    for dropped in index.dropped:
        ids_of[dropped.reason].append(dropped.id)
    reasons = sorted(ids_of.items(), key=lambda item: -len(item[1]))
    wanted = load_params().label_names if PARAMS.exists() else None
    unknown = {key: pair for key, pair in index.pairs.items() if wanted and not {*pair} <= {*wanted}}
    if wanted and unknown:
        names = sorted({label for pair in unknown.values() for label in pair} - {*wanted})
        reasons.append((f"a label that {PARAMS} does not name ({', '.join(names)})", list(unknown)))
    return reasons


if __name__ == "__main__":
    main()
