"""Stage `split`: from the table of posts to the part (train, val, test) of each.

MVSA-Single under `agreement`, 60/20/20: 1,555/518/519 posts.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from src.core.config import Params, load_params
from src.core.labels import TONES
from src.core.paths import POSTS, SPLIT, SPLIT_REPORT
from src.core.records import PARTS, Post, data_digest, digest_of, read_posts, write_json, write_split
from src.services.terminal import command, say


@command(example="python -m src.split")
def main() -> None:
    """Divide the labelled posts into train, val and test, and write outputs/split/."""
    from src.data.split import stratified

    params = load_params()
    posts = read_posts(POSTS)
    part_of = stratified(posts, params.split.val, params.split.test, params.seed)
    report = describe(posts, part_of, params)
    write_split(SPLIT, part_of)
    write_json(SPLIT_REPORT, report)
    _summarise(report)


def describe(posts: Sequence[Post], part_of: Mapping[str, str], params: Params) -> dict[str, Any]:
    """The split report: how it was made, and how many posts of each tone each part has."""
    counts = Counter((part_of[post.id], post.label) for post in posts if post.id in part_of)
    return {
        "kind": params.split.kind,
        "protocol": params.prepare.protocol,
        "seed": params.seed,
        "data_digest": data_digest(posts),
        "split_digest": digest_of(part_of.items()),
        "parts": {part: {tone: counts[part, tone] for tone in TONES} for part in PARTS},
    }


def _summarise(report: dict[str, Any]) -> None:
    say(f"{report['kind']} split of the {report['protocol']} posts, seed {report['seed']}")
    for part, counts in report["parts"].items():
        tones = ", ".join(f"{count:,} {tone}" for tone, count in counts.items())
        say(f"  {part}: {sum(counts.values()):,} posts, {tones}")


if __name__ == "__main__":
    main()
