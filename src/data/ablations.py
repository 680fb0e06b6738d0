"""What a model is shown of posts to find out what it looks at: one half alone, or one half changed."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from src.core.errors import InfeasibleAnalysis
from src.core.records import Post
from src.data.captions import without_hashtags
from src.data.images import Source, blank

BOTH, TEXT, IMAGE, SHUFFLED, NO_HASHTAGS = CONDITIONS = ("both", "text", "image", "shuffled", "no-hashtags")


@dataclass(frozen=True)
class AblatedPost:
    """What a model is shown of one post: a picture, as a path or the content of a file, and a caption."""

    image: Source
    caption: str


def halves(posts: Sequence[Post]) -> dict[str, list[AblatedPost]]:
    """The posts under the conditions `both`, `text` (with a grey picture) and `image` (with no words)."""
    grey = blank()
    return {
        BOTH: [AblatedPost(post.image, post.caption) for post in posts],
        TEXT: [AblatedPost(grey, post.caption) for post in posts],
        IMAGE: [AblatedPost(post.image, "") for post in posts],
    }


def conditions(posts: Sequence[Post], givers: Sequence[Post]) -> dict[str, list[AblatedPost]]:
    """The posts under each of `CONDITIONS`; `givers` are the posts whose pictures they get when shuffled, if any."""
    shuffled = [AblatedPost(giver.image, post.caption) for post, giver in zip(posts, givers, strict=bool(givers))]
    return {
        **halves(posts),
        **({SHUFFLED: shuffled} if givers else {}),
        NO_HASHTAGS: [AblatedPost(post.image, without_hashtags(post.caption)) for post in posts],
    }


def shuffled_images(posts: Sequence[Post], group_of: Mapping[str, str], seed: int) -> list[Post]:
    """For each post the post whose picture it gets: every picture is given once, and none to a near-duplicate.

    With no near-duplicates it is a random cycle through all posts (S. Sattolo, Information Processing Letters 1986).

    Args:
        posts: at least two.
        group_of: the group of near-duplicates of each post, by id.
        seed: which of the many possible orders.

    Raises:
        InfeasibleAnalysis: more than half of the posts are near-duplicates of each other.
    """
    order = _grouped(posts, group_of, seed)
    # Members of a group stand side by side, so that a step as long as the largest group leads out of each.
    step = max(Counter(group_of[post.id] for post in posts).values())
    if 2 * step > len(order):
        raise InfeasibleAnalysis(
            f"{step} of {len(order)} posts are near-duplicates: they cannot all get another's picture"
        )
    giver_of = {post.id: order[(place + step) % len(order)] for place, post in enumerate(order)}
    return [giver_of[post.id] for post in posts]


def _grouped(posts: Sequence[Post], group_of: Mapping[str, str], seed: int) -> list[Post]:
    """The posts in a random order in which the members of a group stand side by side."""
    members: dict[str, list[Post]] = {}
    for post in sorted(posts, key=lambda post: post.id):
        members.setdefault(group_of[post.id], []).append(post)
    groups, chance = list(members.values()), random.Random(seed)
    chance.shuffle(groups)
    return [post for group in groups for post in chance.sample(group, len(group))]
