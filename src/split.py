"""Stage `split`: from the table of posts to the part (train, val, test) of each, and what that division gives away.

MVSA-Single under `agreement`, 60/20/20: 1,555/518/519 posts where stratified, 1,554/519/519 where grouped.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.cli.options import command
from src.cli.output import say, table
from src.core.config import Params, load_params
from src.core.files import digest_of, write_json
from src.core.labels import TONES
from src.core.paths import FINGERPRINTS, GROUPS, LEAKS, POSTS, SPLIT, SPLIT_REPORT
from src.core.records import PARTS, Post, data_digest, read_fingerprints, read_posts, write_groups, write_split

_MOST_HASHTAGS = 5


@command(example="python -m src.split")
def main() -> None:
    """Divide the labelled posts into train, val and test, and write outputs/split/ with a report on leaks.

    Of kind `predefined`, lists that have changed are noticed by `dvc repro`: their folder is a dependency of the stage.
    """
    from src.data.duplicates import find_duplicates
    from src.data.leaks import leak_report

    params = load_params()
    posts, fingerprints = read_posts(POSTS), read_fingerprints(FINGERPRINTS)
    found = find_duplicates([post for post in posts if post.label], fingerprints)
    part_of = divide(posts, found.groups, params)
    report, leaks = describe(posts, part_of, params), leak_report(posts, fingerprints, part_of, found)
    write_split(SPLIT, part_of)
    write_groups(GROUPS, found.groups)
    write_json(SPLIT_REPORT, report)
    write_json(LEAKS, leaks)
    _summarise(report)
    _summarise_leaks(leaks)


def divide(posts: Sequence[Post], group_of: Mapping[str, str], params: Params) -> dict[str, str]:
    """The part of each post by id, as `split` in params.yaml says; `group_of` has the near-duplicates."""
    from src.data.published_splits import predefined_split
    from src.data.split import grouped, stratified

    how = params.split
    if how.kind == "predefined":
        return predefined_split(posts, Path(how.predefined.folder), how.predefined.fold)
    if how.kind == "grouped":
        return grouped(posts, group_of, how.val, how.test, params.seed)
    return stratified(posts, how.val, how.test, params.seed)


def describe(posts: Sequence[Post], part_of: Mapping[str, str], params: Params) -> dict[str, Any]:
    """The split report: how it was made, and how many posts of each tone each part has."""
    counts = Counter((part_of[post.id], post.label) for post in posts if post.id in part_of)
    return {
        "kind": params.split.kind,
        "protocol": params.prepare.protocol,
        "seed": params.seed,
        "predefined": asdict(params.split.predefined) if params.split.kind == "predefined" else None,
        "data_digest": data_digest(posts),
        "split_digest": digest_of(part_of.items()),
        "parts": {part: {tone: counts[part, tone] for tone in TONES} for part in PARTS},
        "in_no_part": sum(bool(post.label) and post.id not in part_of for post in posts),
    }


def _summarise(report: Mapping[str, Any]) -> None:
    lists = report["predefined"]
    how = ", ".join(
        f"{name} {value}" for name, value in (lists or {"seed": report["seed"]}).items() if value is not None
    )
    say(f"{report['kind']} split of the {report['protocol']} posts, {how}")
    for part, counts in report["parts"].items():
        tones = ", ".join(f"{count:,} {tone}" for tone, count in counts.items())
        say(f"  {part}: {sum(counts.values()):,} posts, {tones}")
    if report["in_no_part"]:
        say(f"  in no part: {report['in_no_part']:,} labelled posts that the lists do not name")


def _summarise_leaks(leaks: Mapping[str, Any]) -> None:
    kinds = list(leaks["groups"])
    rows = [(f"{row['part']} posts with a twin in {row['twin_in']}", row) for row in leaks["twins"]]
    across = [[name, *(row[kind] for kind in kinds)] for name, row in rows]
    names = {"groups": "groups", "posts": "posts in them", "conflicting": "groups of several labels"}
    groups = [[words, *(leaks["groups"][kind][name] for kind in kinds)] for name, words in names.items()]
    table("Near-duplicates, by what is alike", ["", *kinds], [*groups, *across])
    say(
        f"{leaks['leak_free_test_posts']:,} of {leaks['parts']['test']:,} test posts have no twin in another part; "
        f"{leaks['images']['surplus_identical']:,} of {leaks['images']['posts']:,} images are copies of another"
    )
    hashtags = [f"{row['hashtag']} {row['label']} {row['with_label']}/{row['posts']}" for row in leaks["hashtags"]]
    say(f"hashtags that give a label away: {', '.join(hashtags[:_MOST_HASHTAGS]) or 'none'} ({len(hashtags)} in all)")
    say(f"see {LEAKS}")


if __name__ == "__main__":
    main()
