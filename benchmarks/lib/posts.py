"""Posts for benchmarks: the sample, or a draw from a folder in MVSA's layout."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from src.core.errors import UsageError
from src.core.labels import agreement
from src.core.paths import SAMPLE
from src.core.records import MAX_PIXELS, Post
from src.data import mvsa
from src.data.reading import read_folder
from src.data.split import stratified

# Test's share of all posts.
TEST_SHARE = 0.2
# Val's share of train and val together.
VAL_SHARE = 0.25


@dataclass(frozen=True)
class Parts:
    """Labelled posts by part. Benchmarks that only time training do not read test."""

    train: tuple[Post, ...]
    val: tuple[Post, ...]
    test: tuple[Post, ...]

    def few(self, batches: int, batch_size: int) -> "Parts":
        """Return at most `batches` batches of train, a third as many of val, and no test."""
        return Parts(self.train[: batches * batch_size], self.val[: max(1, batches // 3) * batch_size], ())


def read(folder: Path = SAMPLE, num_posts: int | None = None, seed: int = 7, num_test: int | None = None) -> Parts:
    """Read the posts whose two labels agree, train to val as 3 to 1.

    Args:
        folder: in MVSA's layout.
        num_posts: number of train and val posts together, at the folder's shares of tones. None takes all.
        seed: decides the draw and each post's part.
        num_test: number of test posts, if `num_posts` is given and the folder has as many more. The default is a third
            of train's number.
    """
    index = mvsa.survey(mvsa.find_root(folder))
    labels = {key: label for key, pair in index.pairs.items() if (label := agreement(*pair))}
    share = _share_of_test(len(labels), num_posts, num_test)
    chosen = set(labels if num_posts is None else _draw(labels, round(num_posts / (1 - share)), seed))
    drawn = replace(index, posts={key: post for key, post in index.posts.items() if key in chosen})
    posts = read_folder(drawn, "agreement", MAX_PIXELS, lambda: None, hashes=False).posts
    part_of = stratified(posts, (1 - share) * VAL_SHARE, share, seed)
    train, val, test = (tuple(post for post in posts if part_of[post.id] == part) for part in ("train", "val", "test"))
    return Parts(train, val, test)


def require_batch(parts: Parts, batch_size: int) -> None:
    """Raise UsageError unless train has a whole batch."""
    if len(parts.train) < batch_size:
        raise UsageError(
            f"--posts has {len(parts.train)} train posts: give --batch-size at most that many, or other --posts"
        )


def _share_of_test(available: int, num_posts: int | None, num_test: int | None) -> float:
    if num_posts is None or num_test is None:
        return TEST_SHARE
    left = min(num_test, available - num_posts)
    return max(TEST_SHARE, left / (num_posts + left))


def _draw(labels: Mapping[str, str], count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    drawn: list[str] = []
    for tone in dict.fromkeys(labels.values()):
        keys = [key for key, label in labels.items() if label == tone]
        drawn += rng.sample(keys, min(len(keys), round(count * len(keys) / len(labels))))
    return drawn
