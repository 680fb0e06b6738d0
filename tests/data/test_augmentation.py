from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.core.records import Post
from src.data.augmentation import MIN_AREA, augmented
from src.data.images import AugmentedImage, open_image

NUMBERS = range(1, 200)


@pytest.fixture
def post(tmp_path: Path) -> Post:
    """Return a post whose image is darker at the left and the top, with a caption of fifty words."""
    grey = np.add.outer(np.linspace(60, 120, 80), np.linspace(0, 60, 120)).astype(np.uint8)
    Image.fromarray(grey).convert("RGB").save(tmp_path / "1.png")
    words = " ".join(f"word{number}" for number in range(50))
    return Post("1", str(tmp_path / "1.png"), words, "positive", "positive", "positive", "digest")


def test_view_depends_on_content_and_number(post: Post) -> None:
    both = "image caption"
    assert augmented(post, both, 1) == augmented(replace(post, id="2"), "caption image", 1)
    views = [augmented(post, both, number) for number in NUMBERS]
    assert len({view.digest for view in views}) == len({view.caption for view in views}) == len(NUMBERS)
    assert augmented(replace(post, digest="another"), both, 1) != views[0]


def test_only_named_halves_are_altered(post: Post) -> None:
    picture, caption, both = (augmented(post, augment, 1) for augment in ("image", "caption", "image caption"))
    assert isinstance(picture.image, AugmentedImage) and picture.caption == post.caption
    assert caption.image == post.image and caption.caption != post.caption
    assert (both.image, both.caption) == (picture.image, caption.caption)
    assert len({view.digest for view in (picture, caption, both, post)}) == 4


def test_unchanged_view_has_posts_digest(post: Post) -> None:
    short = replace(post, caption="ok")
    assert {augmented(short, "caption", number).digest for number in NUMBERS} == {post.digest}
    empty = replace(post, caption="")
    assert {augmented(empty, "caption", number).caption for number in NUMBERS} == {""}


def test_a_tenth_of_words_is_left_out(post: Post) -> None:
    words = post.caption.split()
    captions = [augmented(post, "caption", number).caption.split() for number in NUMBERS]
    for kept in captions:
        assert kept == [word for word in words if word in kept]
    assert sum(map(len, captions)) / len(NUMBERS) / len(words) == pytest.approx(0.9, abs=0.01)


def test_crop_keeps_shape_and_area(post: Post) -> None:
    lefts = []
    for number in NUMBERS:
        picture = augmented(post, "image", number).image
        assert isinstance(picture, AugmentedImage)
        left, upper, right, lower = picture.part
        assert 0 <= left < right <= 1 and 0 <= upper < lower <= 1
        assert (right - left) * (lower - upper) >= MIN_AREA - 1e-9
        lefts.append(left)
        shown = open_image(picture)
        assert shown.width / shown.height == pytest.approx(1.5, abs=0.05)
        grey = np.asarray(shown.convert("L")).astype(float)
        # It would be the other way round in a mirror.
        assert grey[:, :10].mean() < grey[:, -10:].mean() and grey[:10].mean() < grey[-10:].mean()
    assert max(lefts) > 0.1
