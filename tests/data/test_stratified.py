"""Covers: stratified splits (src/data/split.py)."""

import random
from collections import Counter
from pathlib import Path

import pytest

from src.core.errors import UserError
from src.core.labels import TONES, label_of
from src.core.records import Post
from src.data import mvsa
from src.data.split import stratified


def posts_of(**counts: int) -> list[Post]:
    labels = [tone for tone, count in counts.items() for _ in range(count)]
    return [Post(str(number), "", "", label, label, label, "") for number, label in enumerate(labels)]


def sizes(part_of: dict[str, str]) -> list[int]:
    counts = Counter(part_of.values())
    return [counts[part] for part in ("train", "val", "test")]


@pytest.mark.parametrize(
    ("counts", "val", "test", "expected"),
    [
        ((724, 470, 1398), 0.2, 0.2, [1555, 518, 519]),
        ((20, 20, 10), 0.2, 0.2, [30, 10, 10]),
        ((10, 10, 10), 0.2, 0.7, [3, 6, 21]),
    ],
)
def test_test_rounds_up_and_val_down(
    counts: tuple[int, int, int], val: float, test: float, expected: list[int]
) -> None:
    posts = posts_of(**dict(zip(TONES, counts, strict=True)))
    assert sizes(stratified(posts, val, test, seed=7)) == expected


def test_parts_have_equal_shares_of_tones() -> None:
    posts = posts_of(negative=100, neutral=50, positive=200)
    part_of = stratified(posts, 0.2, 0.2, seed=1)
    counts = Counter((part_of[post.id], post.label) for post in posts)
    assert [counts["val", tone] for tone in TONES] == [counts["test", tone] for tone in TONES] == [20, 10, 40]


def test_split_depends_on_seed_alone() -> None:
    posts = posts_of(negative=30, neutral=20, positive=60)
    shuffled = random.Random(3).sample(posts, len(posts))
    assert stratified(posts, 0.2, 0.2, seed=1) == stratified(shuffled, 0.2, 0.2, seed=1)
    assert stratified(posts, 0.2, 0.2, seed=1) != stratified(posts, 0.2, 0.2, seed=2)


def test_unlabelled_posts_get_no_part() -> None:
    posts = [*posts_of(negative=10, neutral=10, positive=10), Post("left out", "", "", "positive", "negative", "", "")]
    part_of = stratified(posts, 0.2, 0.2, seed=1)
    assert len(part_of) == 30
    assert "left out" not in part_of


@pytest.mark.parametrize(
    "counts",
    [
        {"negative": 10, "neutral": 2, "positive": 50},
        {"negative": 1, "neutral": 20, "positive": 20},
        {"negative": 2, "neutral": 2, "positive": 2},
        {},
    ],
)
def test_too_few_posts_are_refused(counts: dict[str, int]) -> None:
    with pytest.raises(UserError, match="too few posts to have every label in train, val, test"):
        stratified(posts_of(**counts), 0.2, 0.2, seed=1)


@pytest.mark.real_data
def test_real_posts_match_published_sizes(real_mvsa: Path) -> None:
    pairs = mvsa.survey(mvsa.find_root(real_mvsa)).pairs
    posts = [Post(key, "", "", *pair, label_of("agreement", *pair) or "", "") for key, pair in pairs.items()]
    assert sizes(stratified(posts, 0.2, 0.2, seed=7)) == [1555, 518, 519]
