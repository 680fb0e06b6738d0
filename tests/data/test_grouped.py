"""Covers: grouped splits (src/data/split.py)."""

import random
from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from src.core.errors import UserError
from src.core.labels import TONES, label_of
from src.core.records import PARTS, Post
from src.data.duplicates import find_duplicates
from src.data.reading import LoadedDataset
from src.data.split import grouped

Groups = dict[str, str]


def posts_of(**counts: int) -> list[Post]:
    labels = [tone for tone, count in counts.items() for _ in range(count)]
    random.Random(0).shuffle(labels)
    return [Post(str(number), "", "", label, label, label, "") for number, label in enumerate(labels)]


def groups_of(posts: list[Post], share: float, most: int, seed: int = 1) -> Groups:
    """Every post in a group of its own, but for a share of them in groups of 2 to `most`."""
    rng, group_of = random.Random(seed), {post.id: post.id for post in posts}
    rest = rng.sample([post.id for post in posts], round(share * len(posts)))
    while rest:
        size = rng.randint(2, most)
        members, rest = rest[:size], rest[size:]
        group_of |= dict.fromkeys(members, min(members, key=int))
    return group_of


POSTS = posts_of(negative=145, neutral=95, positive=280)
GROUPS = groups_of(POSTS, share=0.3, most=8)


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_in_one_part(seed: int) -> None:
    part_of = grouped(POSTS, GROUPS, 0.2, 0.2, seed)
    parts = defaultdict(set)
    for key, group in GROUPS.items():
        parts[group].add(part_of[key])
    assert max(map(len, parts.values())) == 1
    assert part_of.keys() == {post.id for post in POSTS}


@pytest.mark.parametrize(("val", "test"), [(0.2, 0.2), (0.1, 0.3), (0.25, 0.5), (0.15, 0.2), (1 / 3, 1 / 3)])
def test_shares_and_tones_are_near_the_wanted(val: float, test: float) -> None:
    part_of = grouped(POSTS, GROUPS, val, test, seed=7)
    counts = Counter((part_of[post.id], post.label) for post in POSTS)
    of_tone = Counter(post.label for post in POSTS)
    for part, share in zip(PARTS, (1 - val - test, val, test), strict=True):
        size = sum(counts[part, tone] for tone in TONES)
        assert size == pytest.approx(share * len(POSTS), abs=0.02 * len(POSTS))
        for tone in TONES:
            assert counts[part, tone] == pytest.approx(share * of_tone[tone], abs=4)


def test_grouped_split_depends_on_seed_alone() -> None:
    shuffled = random.Random(3).sample(POSTS, len(POSTS))
    part_of = grouped(POSTS, GROUPS, 0.2, 0.2, seed=1)
    assert grouped(shuffled, GROUPS, 0.2, 0.2, seed=1) == part_of
    named = {key: f"group of {group}" for key, group in GROUPS.items()}
    assert grouped(POSTS, named, 0.2, 0.2, seed=1) == part_of
    assert grouped(POSTS, GROUPS, 0.2, 0.2, seed=2) != part_of


def test_ids_matter_only_by_order() -> None:
    other = {post.id: str(int(post.id) * 7 + 500) for post in POSTS}
    renamed = [replace(post, id=other[post.id]) for post in POSTS]
    groups = {other[key]: other[group] for key, group in GROUPS.items()}
    part_of = grouped(POSTS, GROUPS, 0.2, 0.2, seed=1)
    assert grouped(renamed, groups, 0.2, 0.2, seed=1) == {other[key]: part for key, part in part_of.items()}


def test_exact_copy_stays_with_original() -> None:
    for number in (3, 100, 400):
        copied = replace(POSTS[number], id="9000")
        part_of = grouped([*POSTS, copied], {**GROUPS, "9000": GROUPS[POSTS[number].id]}, 0.2, 0.2, seed=1)
        assert part_of["9000"] == part_of[POSTS[number].id]


def test_unlabelled_posts_get_no_part() -> None:
    part_of = grouped([*POSTS, Post("9000", "", "", "positive", "negative", "", "")], GROUPS, 0.2, 0.2, seed=1)
    assert "9000" not in part_of


@pytest.mark.parametrize(
    "counts",
    [
        {"negative": 10, "neutral": 2, "positive": 50},
        {"negative": 2, "neutral": 2, "positive": 2},
        {},
    ],
)
def test_too_few_posts_are_refused(counts: dict[str, int]) -> None:
    posts = posts_of(**counts)
    with pytest.raises(UserError, match="too few posts to have every label in train, val, test"):
        grouped(posts, {post.id: post.id for post in posts}, 0.2, 0.2, seed=1)


def test_tone_in_one_group_is_refused() -> None:
    """Whatever part it is in, the others lack the tone."""
    group_of = {post.id: "all" if post.label == "neutral" else post.id for post in POSTS}
    with pytest.raises(UserError, match=r"too few groups .* 1 with neutral"):
        grouped(POSTS, group_of, 0.2, 0.2, seed=1)


def test_single_group_is_refused() -> None:
    with pytest.raises(UserError, match=r"too few groups .* 1 in all"):
        grouped(POSTS, dict.fromkeys(GROUPS, "0"), 0.2, 0.2, seed=1)


def test_large_group_goes_to_train() -> None:
    template = [post.id for place, post in enumerate(POSTS) if place % 4]
    group_of = GROUPS | dict.fromkeys(template, template[0])
    for seed in range(5):
        part_of = grouped(POSTS, group_of, 0.2, 0.2, seed)
        sizes = Counter(part_of.values())
        assert {part_of[key] for key in template} == {"train"}
        assert sizes["val"] + sizes["test"] >= len(POSTS) // 6
        assert {(part_of[post.id], post.label) for post in POSTS} == {(part, tone) for part in PARTS for tone in TONES}


def test_three_groups_fill_three_parts() -> None:
    group_of = {post.id: str(place % 3) for place, post in enumerate(POSTS)}
    part_of = grouped(POSTS, group_of, 0.2, 0.2, seed=1)
    assert {frozenset(key for key in part_of if part_of[key] == part) for part in PARTS} == {
        frozenset(key for key in group_of if group_of[key] == group) for group in "012"
    }


def test_groups_of_one_tone_are_refused() -> None:
    with pytest.raises(UserError, match=r"too few groups of near-duplicates .* split\.kind: stratified"):
        grouped(POSTS, {post.id: post.label for post in POSTS}, 0.2, 0.2, seed=1)


@pytest.mark.real_data
def test_real_posts_are_divided_evenly(real_reading: LoadedDataset, real_agreement: list[Post]) -> None:
    labelled = real_agreement
    duplicates = find_duplicates(labelled, real_reading.fingerprints)
    part_of = grouped(labelled, duplicates.groups, 0.2, 0.2, seed=7)
    sizes = Counter(part_of.values())
    assert [abs(sizes[part] - size) <= 2 for part, size in zip(PARTS, (1555, 518, 519), strict=True)] == [True] * 3
    counts = Counter((part_of[post.id], post.label) for post in labelled)
    assert all(abs(counts["test", tone] - counts["val", tone]) <= 2 for tone in TONES)
    assert all(label_of("agreement", post.text_label, post.image_label) for post in labelled)
