"""Which posts an epoch trains on: all of them, or, with a curriculum, the easy ones first and more in each epoch.

Y. Bengio et al., Curriculum Learning, ICML 2009. Posts are easy whose text and image labels agree, or of which the
model, as it is when the epoch begins, has the least loss (M. P. Kumar et al., Self-Paced Learning, NIPS 2010). Each
tone keeps its share (G. Hacohen and D. Weinshall, On the Power of Curriculum Learning, ICML 2019, section 2).
"""

import math
import random
from collections.abc import Sequence

from src.core.records import Post
from src.core.training_config import TrainingConfig


def by_loss(settings: TrainingConfig, epoch: int) -> bool:
    """Whether the posts of an epoch, counted from 1, are chosen by their losses."""
    return settings.curriculum.endswith("loss") and share(settings, epoch) < 1


def share(settings: TrainingConfig, epoch: int) -> float:
    """The share of the posts that an epoch trains on: it rises by the same amount in each until it is 1."""
    rising = settings.curriculum_until * settings.epochs
    if settings.curriculum == "none" or epoch - 1 >= rising:
        return 1.0
    return settings.curriculum_start + (1 - settings.curriculum_start) * (epoch - 1) / rising


def num_posts(settings: TrainingConfig, posts: Sequence[Post], epoch: int) -> int:
    """How many posts an epoch trains on."""
    return sum(_kept(len(members), settings, epoch) for members in _by_tone(posts))


def chosen(
    settings: TrainingConfig, posts: Sequence[Post], losses: Sequence[float], epoch: int, seed: int
) -> list[int]:
    """The places of the posts that an epoch trains on, in order.

    Args:
        settings: their curriculum and its pace.
        posts: of the train part.
        losses: of each, in nats; of no importance where they are not `by_loss`.
        epoch: counted from 1.
        seed: which of equally easy posts come first, in all epochs alike.
    """
    chance = random.Random(seed)
    lot = [chance.random() for _ in posts]

    def difficulty(place: int) -> tuple[bool, float, float]:
        post = posts[place]
        disagree = settings.curriculum.startswith("agreement") and post.text_label != post.image_label
        return disagree, losses[place] if settings.curriculum.endswith("loss") else 0.0, lot[place]

    easiest = (sorted(members, key=difficulty)[: _kept(len(members), settings, epoch)] for members in _by_tone(posts))
    return sorted(place for members in easiest for place in members)


def _kept(count: int, settings: TrainingConfig, epoch: int) -> int:
    return math.ceil(share(settings, epoch) * count)


def _by_tone(posts: Sequence[Post]) -> list[list[int]]:
    labels = [post.label for post in posts]
    return [[place for place, own in enumerate(labels) if own == label] for label in dict.fromkeys(labels)]
