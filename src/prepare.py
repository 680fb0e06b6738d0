"""Stage `prepare`: read data/ into a table of posts, a table of image fingerprints, and a data report.

MVSA-Single has 4,869 posts: 2,592 are labelled under `agreement`, 4,511 under `standard`.
"""

from src.cli.options import command
from src.cli.output import say
from src.core.config import load_params
from src.core.data_outputs import DataReport
from src.core.paths import DATA_REPORT


@command(example="python -m src.prepare")
def main() -> None:
    """Read the posts in data/, leave out the unusable ones, and write outputs/prepare/."""
    from src.pipeline.prepare import prepare_posts

    _print_report(prepare_posts(load_params()))


def _print_report(report: DataReport) -> None:
    say(f"{report.posts:,} posts read, {report.dropped.count:,} left out")
    for reason, count in report.dropped.reasons.items():
        say(f"  left out, {reason}: {count:,}")
    for variant, count in report.variants.items():
        say(f"  read in spite of {variant}: {count:,}")
    for encoding, ids in report.guessed_encodings.items():
        say(f"  captions without a known encoding, read as {encoding}: {len(ids):,}")
    for protocol, counts in report.label_counts.items():
        labels = ", ".join(f"{count:,} {label}" for label, count in counts.items())
        mark = "used" if protocol == report.protocol else "not used"
        say(f"  {protocol} ({mark}): {sum(counts.values()):,} labelled, {labels}")
    words = report.caption_words
    say(f"  captions: median {words.median} words, at most {words.max}; {report.empty_captions:,} empty")
    say(f"  see {DATA_REPORT}")


if __name__ == "__main__":
    main()
