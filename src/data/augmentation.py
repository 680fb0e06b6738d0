"""Altered views of a post to train on: a part of its picture in another light, its caption without some words.

Which views a post has depends on its content and their numbers alone, so that they are encoded once and cached as posts
are. A picture is cropped and lit otherwise as in A. Krizhevsky et al., NIPS 2012, section 4.1, but never mirrored: many
pictures of posts bear lettering. Words are left out as in J. Wei and K. Zou, EDA, EMNLP 2019, section 2.
"""

import hashlib
import math
import random
from dataclasses import dataclass

from src.core.records import Post
from src.core.training_config import CAPTION, IMAGE
from src.data.images import AugmentedImage, Source, alteration_digest

LEAST_AREA = 0.7  # of a picture that a view keeps
MOST_LIGHT = 0.2  # by how much brightness, contrast and saturation change at most, as a share
WORDS_LEFT_OUT = 0.1  # the chance of each word


@dataclass(frozen=True)
class AugmentedPost:
    """What is shown of a post in place of it; the digest is the post's own where nothing has changed."""

    image: Source
    caption: str
    digest: str


def augmented(post: Post, augment: str, number: int) -> AugmentedPost:
    """One of a post's views.

    Args:
        post: whose.
        augment: what is altered, "picture" or "caption" or both, parted by a space.
        number: which of them; 1 or more.
    """
    chance = random.Random(f"{post.digest} {number}")
    image, caption = _picture(post.image, chance), _caption(post.caption, chance)
    shown = image if IMAGE in augment.split() else post.image
    said = caption if CAPTION in augment.split() else post.caption
    if (shown, said) == (post.image, post.caption):
        return AugmentedPost(post.image, post.caption, post.digest)
    how = (str(image.part), str(image.light), alteration_digest()) if shown is image else ()
    changes = [post.digest, said, *how]
    return AugmentedPost(shown, said, hashlib.sha256("\n".join(changes).encode()).hexdigest())


def _picture(source: str, chance: random.Random) -> AugmentedImage:
    """A part of the picture of its own shape, anywhere."""
    side = math.sqrt(chance.uniform(LEAST_AREA, 1))
    left, upper = chance.uniform(0, 1 - side), chance.uniform(0, 1 - side)
    brightness, contrast, saturation = (chance.uniform(1 - MOST_LIGHT, 1 + MOST_LIGHT) for _ in range(3))
    return AugmentedImage(source, (left, upper, left + side, upper + side), (brightness, contrast, saturation))


def _caption(caption: str, chance: random.Random) -> str:
    """The caption less some words; one word at least is left."""
    words = caption.split(" ")
    kept = [word for word in words if chance.random() >= WORDS_LEFT_OUT]
    return " ".join(kept or [chance.choice(words)])
