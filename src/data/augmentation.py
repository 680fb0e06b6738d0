"""Altered views of a post for training: a crop of its image in another light, its caption without some words.

A view depends only on the post's content and the view's number. It is therefore encoded once and cached like a post.
Crop and light follow A. Krizhevsky et al., NIPS 2012, section 4.1, without mirroring, because many images of posts bear
lettering. Words are left out as in J. Wei and K. Zou, EDA, EMNLP 2019, section 2.
"""

import hashlib
import math
import random
from dataclasses import dataclass

from src.core.records import Post
from src.core.training_config import CAPTION, IMAGE
from src.data.images import AugmentedImage, Source, alteration_digest

# The smallest share of an image's area that a view keeps.
MIN_AREA = 0.7
# The largest change of brightness, contrast and saturation, as a share.
MAX_LIGHT_CHANGE = 0.2
# The probability that a word is left out.
DROP_RATE = 0.1


@dataclass(frozen=True)
class AugmentedPost:
    """One of a post's augmented views."""

    image: Source
    caption: str
    # The post's own digest if the view equals the post.
    digest: str


def augmented(post: Post, augment: str, number: int) -> AugmentedPost:
    """Return one of a post's views.

    Args:
        post: the post.
        augment: the halves that are altered: "image", "caption" or both with a space between.
        number: the number of the view, from 1.
    """
    rng = random.Random(f"{post.digest} {number}")
    # Both halves are always drawn, so that a half does not depend on `augment`.
    altered_image = _alter_image(post.image, rng)
    altered_caption = _alter_caption(post.caption, rng)
    image = altered_image if IMAGE in augment.split() else post.image
    caption = altered_caption if CAPTION in augment.split() else post.caption
    if (image, caption) == (post.image, post.caption):
        return AugmentedPost(post.image, post.caption, post.digest)
    content = [post.digest, caption]
    if image is altered_image:
        content += [str(altered_image.part), str(altered_image.light), alteration_digest()]
    return AugmentedPost(image, caption, hashlib.sha256("\n".join(content).encode()).hexdigest())


def _alter_image(source: str, rng: random.Random) -> AugmentedImage:
    """Draw a crop anywhere in the image with its aspect ratio, and a light."""
    side = math.sqrt(rng.uniform(MIN_AREA, 1))
    left = rng.uniform(0, 1 - side)
    upper = rng.uniform(0, 1 - side)
    brightness, contrast, saturation = (rng.uniform(1 - MAX_LIGHT_CHANGE, 1 + MAX_LIGHT_CHANGE) for _ in range(3))
    return AugmentedImage(source, (left, upper, left + side, upper + side), (brightness, contrast, saturation))


def _alter_caption(caption: str, rng: random.Random) -> str:
    """Leave out some words of the caption, but not all."""
    words = caption.split(" ")
    kept = [word for word in words if rng.random() >= DROP_RATE]
    return " ".join(kept or [rng.choice(words)])
