"""The curriculum: an epoch trains on all posts, or on the easiest posts, whose share rises from epoch to epoch.

Source: Y. Bengio et al., Curriculum Learning, ICML 2009. A post is easy if its text and image labels agree, or if the
model has a low loss on it at the beginning of the epoch (M. P. Kumar et al., Self-Paced Learning, NIPS 2010). Each
label keeps its share (G. Hacohen and D. Weinshall, On the Power of Curriculum Learning, ICML 2019, section 2).
"""

import math
import random
from collections.abc import Sequence

from src.core.records import Post
from src.core.training_config import TrainingConfig


def by_loss(settings: TrainingConfig, epoch: int) -> bool:
    """Return whether the posts of an epoch, counted from 1, are chosen by their losses."""
    return settings.curriculum.endswith("loss") and share(settings, epoch) < 1


def share(settings: TrainingConfig, epoch: int) -> float:
    """Return the share of the posts that an epoch trains on; it rises linearly until it is 1."""
    rising = settings.curriculum_until * settings.epochs
    if settings.curriculum == "none" or epoch - 1 >= rising:
        return 1.0
    return settings.curriculum_start + (1 - settings.curriculum_start) * (epoch - 1) / rising


def num_posts(settings: TrainingConfig, posts: Sequence[Post], epoch: int) -> int:
    """Return the number of posts that an epoch trains on."""
    return sum(_kept(len(members), settings, epoch) for members in _by_label(posts))


def chosen(
    settings: TrainingConfig, posts: Sequence[Post], losses: Sequence[float], epoch: int, seed: int
) -> list[int]:
    """Return the indices of the posts that an epoch trains on, in ascending order.

    Args:
        settings: The training config, with the curriculum and its pace.
        posts: The posts of the train part.
        losses: The loss of each post, in nats; without effect unless `by_loss` holds.
        epoch: The number of the epoch, counted from 1.
        seed: The seed of the order of equally easy posts, which is the same in all epochs.
    """
    rng = random.Random(seed)
    # The order stays the same in all epochs, so that an epoch keeps the equally easy posts of the epoch before.
    tie_breaks = [rng.random() for _ in posts]

    def difficulty(index: int) -> tuple[bool, float, float]:
        post = posts[index]
        disagree = settings.curriculum.startswith("agreement") and post.text_label != post.image_label
        return disagree, losses[index] if settings.curriculum.endswith("loss") else 0.0, tie_breaks[index]

    easiest = (sorted(members, key=difficulty)[: _kept(len(members), settings, epoch)] for members in _by_label(posts))
    return sorted(index for members in easiest for index in members)


def _kept(count: int, settings: TrainingConfig, epoch: int) -> int:
    return math.ceil(share(settings, epoch) * count)


def _by_label(posts: Sequence[Post]) -> list[list[int]]:
    labels = [post.label for post in posts]
    return [[index for index, own in enumerate(labels) if own == label] for label in dict.fromkeys(labels)]
