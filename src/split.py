"""Stage `split`: assign each labelled post to train, val or test, and report leaks between these parts.

MVSA-Single under `agreement` at 60/20/20 gives 1,555/518/519 posts if stratified, and 1,554/519/519 if grouped.
"""

from src.cli.options import command
from src.cli.output import say, table
from src.core.config import load_params
from src.core.data_outputs import LeakReport, SplitReport
from src.core.paths import LEAKS

_MAX_HASHTAGS = 5


@command(example="python -m src.split")
def main() -> None:
    """Divide the labelled posts into train, val and test, and write outputs/split/ with a report on leaks.

    With kind `predefined`, `dvc repro` notices changed lists, because their folder is a dependency of the stage.
    """
    from src.pipeline.split import split_posts

    report, leaks = split_posts(load_params())
    _print_split(report)
    _print_leaks(leaks)


def _print_split(report: SplitReport) -> None:
    settings: dict[str, object] = {} if report.kind == "given" else {"seed": report.seed}
    if report.predefined:
        settings = vars(report.predefined)
    shown = [f"{name} {value}" for name, value in settings.items() if value is not None]
    say(", ".join([f"{report.kind} split of the {report.protocol} posts", *shown]))
    for part, counts in report.parts.items():
        labels = ", ".join(f"{count:,} {label}" for label, count in counts.items())
        say(f"  {part}: {sum(counts.values()):,} posts, {labels}")
    if report.in_no_part:
        say(f"  in no part: {report.in_no_part:,} labelled posts that the lists, or the column split, do not name")
    if report.unimodal:
        say(f"  in no part: {report.unimodal:,} posts whose labels of text and image differ, for unimodal_labels")


def _print_leaks(leaks: LeakReport) -> None:
    kinds = list(leaks.groups)
    counts = leaks.groups.values()
    rows: list[list[object]] = [
        ["groups", *(count.groups for count in counts)],
        ["posts in them", *(count.posts for count in counts)],
        ["groups of several labels", *(count.conflicting for count in counts)],
    ]
    rows += [
        [f"{row.part} posts with a near-duplicate in {row.duplicate_in}", *(getattr(row, kind) for kind in kinds)]
        for row in leaks.near_duplicates
    ]
    table("Near-duplicates, by what is alike", ["", *kinds], rows)
    say(
        f"{leaks.leak_free_test_posts:,} of {leaks.parts['test']:,} test posts have no near-duplicate in another part; "
        f"{leaks.images.surplus_identical:,} of {leaks.images.posts:,} images are copies of another"
    )
    hashtags = [f"{row.hashtag} {row.label} {row.with_label}/{row.posts}" for row in leaks.hashtags]
    shown = ", ".join(hashtags[:_MAX_HASHTAGS]) or "none"
    say(f"hashtags that give a label away: {shown} ({len(hashtags)} in all)")
    say(f"see {LEAKS}")


if __name__ == "__main__":
    main()
