from collections import Counter

import pytest

from src.core.errors import InfeasibleAnalysis
from src.core.records import Post
from src.data.ablations import BOTH, IMAGE, NO_HASHTAGS, SHUFFLED, TEXT, ablated_posts, halves, shuffled_images
from src.data.captions import hashtags, without_hashtags
from src.data.images import placeholder


def post(key: str, caption: str = "a caption") -> Post:
    return Post(key, f"data/{key}.jpg", caption, "positive", "positive", "positive", key)


POSTS = [post(str(n), f"caption {n} #tag{n}") for n in range(20)]
SINGLES = {post.id: post.id for post in POSTS}


@pytest.mark.parametrize(
    ("caption", "rest"),
    [
        ("so happy today", "so happy today"),
        ("two  spaces, and a\nnew line", "two  spaces, and a\nnew line"),
        ("#happy day at the #beach!", "day at the !"),
        ("#happy #sunny", ""),
        ("one#two#three four", "one four"),
        ("#été #счастье \N{FULLWIDTH NUMBER SIGN}full #snake_case #2016", ""),
        ("we are # 1", "we are # 1"),
        ("it&#39;s http://example.org/#about", "it&#39;s http://example.org/#about"),
        ("", ""),
    ],
)
def test_hashtags_are_removed_with_their_words(caption: str, rest: str) -> None:
    assert without_hashtags(caption) == rest


def test_found_and_removed_hashtags_agree() -> None:
    assert hashtags("#Happy day, #happy! it&#39;s \N{FULLWIDTH NUMBER SIGN}Beach /#about") == {"#happy", "#beach"}


def test_each_ablation_changes_its_half() -> None:
    image_posts = [*POSTS[1:], POSTS[0]]
    posts_of = ablated_posts(POSTS, image_posts)
    assert tuple(posts_of) == (BOTH, TEXT, IMAGE, SHUFFLED, NO_HASHTAGS)
    assert all(len(shown) == len(POSTS) for shown in posts_of.values())
    first = {name: shown[0] for name, shown in posts_of.items()}
    assert (first["both"].image, first["both"].caption) == ("data/0.jpg", "caption 0 #tag0")
    assert (first["image"].image, first["image"].caption) == ("data/0.jpg", "")
    assert (first["shuffled"].image, first["shuffled"].caption) == ("data/1.jpg", "caption 0 #tag0")
    assert (first["no-hashtags"].image, first["no-hashtags"].caption) == ("data/0.jpg", "caption 0")
    assert first["text"].caption == "caption 0 #tag0"


def test_no_shuffled_posts_without_images() -> None:
    assert tuple(ablated_posts(POSTS, [])) == (BOTH, TEXT, IMAGE, NO_HASHTAGS)


def test_text_alone_has_placeholder() -> None:
    assert {shown.image for shown in halves(POSTS)["text"]} == {placeholder()}


def test_shuffling_moves_every_image_once() -> None:
    for seed in range(50):
        image_posts = shuffled_images(POSTS, SINGLES, seed)
        assert sorted(other.id for other in image_posts) == sorted(SINGLES)
        assert all(other.id != own.id for other, own in zip(image_posts, POSTS, strict=True))


def test_shuffling_depends_on_seed_alone() -> None:
    def image_post_of(posts: list[Post], seed: int) -> dict[str, str]:
        image_posts = shuffled_images(posts, SINGLES, seed)
        return {own.id: other.id for own, other in zip(posts, image_posts, strict=True)}

    assert image_post_of(POSTS, 1) == image_post_of(POSTS[::-1], 1)
    assert image_post_of(POSTS, 1) != image_post_of(POSTS, 2)


def test_shuffling_is_uniform() -> None:
    """The chi-squared statistic of 4 other posts in 2,000 draws exceeds 16.3 once in a thousand."""
    few = POSTS[:5]
    counts = Counter(shuffled_images(few, SINGLES, seed)[0].id for seed in range(2000))
    assert set(counts) == {"1", "2", "3", "4"}
    assert sum((count - 500) ** 2 / 500 for count in counts.values()) < 16.3


@pytest.mark.parametrize("sizes", [[1, 1], [2, 2], [3, 1, 2], [5, 5], [10, 1, 2, 3, 4], [1, 9, 4, 5]])
def test_no_image_goes_to_near_duplicate(sizes: list[int]) -> None:
    groups = [str(number) for number, size in enumerate(sizes) for _ in range(size)]
    posts = POSTS[: len(groups)]
    group_of = {post.id: group for post, group in zip(posts, groups, strict=True)}
    for seed in range(50):
        image_posts = shuffled_images(posts, group_of, seed)
        assert sorted(other.id for other in image_posts) == sorted(group_of)
        assert all(group_of[own.id] != group_of[other.id] for own, other in zip(posts, image_posts, strict=True))


def test_shuffling_needs_different_posts() -> None:
    group_of = {post.id: "0" for post in POSTS[:11]} | {post.id: post.id for post in POSTS[11:]}
    with pytest.raises(InfeasibleAnalysis, match="11 of 20 posts are near-duplicates"):
        shuffled_images(POSTS, group_of, seed=1)
