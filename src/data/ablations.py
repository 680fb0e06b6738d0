"""Ablations of posts: one half alone, or one half changed."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from src.core.errors import InfeasibleAnalysis
from src.core.records import Post
from src.data.captions import without_hashtags
from src.data.images import Source, placeholder

BOTH, TEXT, IMAGE, SHUFFLED, NO_HASHTAGS = ("both", "text", "image", "shuffled", "no-hashtags")


@dataclass(frozen=True)
class AblatedPost:
    """A post of which one half is hidden or changed."""

    # A path, or the content of a file.
    image: Source
    caption: str


def halves(posts: Sequence[Post]) -> dict[str, list[AblatedPost]]:
    """Return the posts under `both`, `text` (with the placeholder) and `image` (with an empty caption)."""
    no_image = placeholder()
    return {
        BOTH: [AblatedPost(post.image, post.caption) for post in posts],
        TEXT: [AblatedPost(no_image, post.caption) for post in posts],
        IMAGE: [AblatedPost(post.image, "") for post in posts],
    }


def ablated_posts(posts: Sequence[Post], image_posts: Sequence[Post]) -> dict[str, list[AblatedPost]]:
    """Return the posts under each ablation, by its name.

    Args:
        posts: the posts.
        image_posts: for each post the one whose image it gets when shuffled. Empty: there are no shuffled posts.
    """
    shuffled = [
        AblatedPost(other.image, post.caption) for post, other in zip(posts, image_posts, strict=bool(image_posts))
    ]
    return {
        **halves(posts),
        **({SHUFFLED: shuffled} if image_posts else {}),
        NO_HASHTAGS: [AblatedPost(post.image, without_hashtags(post.caption)) for post in posts],
    }


def shuffled_images(posts: Sequence[Post], group_of: Mapping[str, str], seed: int) -> list[Post]:
    """Return for each post the one whose image it gets: a permutation that maps no post to a near-duplicate.

    Without near-duplicates it is a random cycle through all posts (S. Sattolo, Information Processing Letters 1986).

    Args:
        posts: at least two posts.
        group_of: the group of near-duplicates of each post, by id.
        seed: the seed of the order.

    Raises:
        InfeasibleAnalysis: more than half of the posts are near-duplicates of each other.
    """
    order = _grouped(posts, group_of, seed)
    # Members of a group stand side by side, so a step as long as the largest group leads out of every group.
    step = max(Counter(group_of[post.id] for post in posts).values())
    if 2 * step > len(order):
        raise InfeasibleAnalysis(
            f"{step} of {len(order)} posts are near-duplicates: they cannot all get another's image"
        )
    image_post_of = {post.id: order[(place + step) % len(order)] for place, post in enumerate(order)}
    return [image_post_of[post.id] for post in posts]


def _grouped(posts: Sequence[Post], group_of: Mapping[str, str], seed: int) -> list[Post]:
    """Return the posts in a random order in which the members of a group stand side by side."""
    members: dict[str, list[Post]] = {}
    for post in sorted(posts, key=lambda post: post.id):
        members.setdefault(group_of[post.id], []).append(post)
    groups = list(members.values())
    rng = random.Random(seed)
    rng.shuffle(groups)
    return [post for group in groups for post in rng.sample(group, len(group))]
