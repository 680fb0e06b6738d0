from dataclasses import replace
from pathlib import Path

import pytest

from src.core.data_outputs import (
    CrossPartDuplicates,
    ExamplePostOfPart,
    GroupCounts,
    ImageCounts,
    LeakReport,
    RevealingHashtag,
)
from src.core.records import Fingerprint, Post
from src.data import mvsa
from src.data.duplicates import find_duplicates
from src.data.leaks import leak_report, revealing_hashtags
from src.data.published_splits import predefined_split
from src.data.reading import LoadedDataset, read_folder
from src.data.split import grouped, stratified


def post(key: str, caption: str, label: str = "positive") -> Post:
    return Post(key, "", caption, label or "positive", label or "negative", label, "")


# 1 and 2 have one caption, 2 and 3 one file, 4 and 5 one caption and two labels; 6 and 7 have none, 8 no label.
POSTS = [
    post("1", "what a day"),
    post("2", "RT @a: what a day"),
    post("3", "something else"),
    post("4", "it rains"),
    post("5", "It rains.", "negative"),
    post("6", "http://t.co/a"),
    post("7", "", "neutral"),
    post("8", "it rains", ""),
]
PRINTS = [
    Fingerprint(key, "file" if key in "238" else f"file {key}", f"{int(key) * 0x1111_1111_1111_1111:016x}")
    for key in "12345678"
]
PARTS = {"1": "train", "2": "test", "3": "val", "4": "train", "5": "test", "6": "train", "7": "test"}


def report_of(posts: list[Post], prints: list[Fingerprint], part_of: dict[str, str]) -> LeakReport:
    duplicates = find_duplicates([post for post in posts if post.label], prints)
    return leak_report(posts, prints, part_of, duplicates)


@pytest.fixture
def report() -> LeakReport:
    return report_of(POSTS, PRINTS, PARTS)


def duplicates_between(report: LeakReport, part: str, other: str) -> CrossPartDuplicates:
    return next(row for row in report.near_duplicates if (row.part, row.duplicate_in) == (part, other))


def test_cross_part_near_duplicates_are_counted(report: LeakReport) -> None:
    assert report.near_duplicates == (
        CrossPartDuplicates("test", "train", caption=2, image=0, looks=0, any=2),
        CrossPartDuplicates("test", "val", caption=0, image=1, looks=0, any=1),
        # Posts 3 and 1 are alike through post 2 alone.
        CrossPartDuplicates("val", "train", caption=0, image=0, looks=0, any=1),
        CrossPartDuplicates("val", "test", caption=0, image=1, looks=0, any=1),
    )
    assert (report.leak_free_test_posts, report.parts) == (1, {"train": 3, "val": 1, "test": 3})


def test_groups_and_conflicts_are_counted(report: LeakReport) -> None:
    assert report.groups["caption"] == GroupCounts(groups=2, posts=4, conflicting=1)
    assert report.groups["image"] == GroupCounts(groups=1, posts=2, conflicting=0)
    assert report.groups["any"] == GroupCounts(groups=2, posts=5, conflicting=1)


def test_surplus_images_and_empty_captions(report: LeakReport) -> None:
    assert report.images == ImageCounts(posts=8, surplus_identical=2)
    assert report.captions_without_words == {"train": 1, "val": 0, "test": 1}


def test_examples_show_both_posts(report: LeakReport) -> None:
    first, second = report.examples.near_duplicates["caption"]
    assert first.kinds == ("caption",)
    assert first.posts == (
        ExamplePostOfPart("2", "test", "positive", "RT @a: what a day"),
        ExamplePostOfPart("1", "train", "positive", "what a day"),
    )
    assert [post.id for post in second.posts] == ["5", "4"]
    (conflict,) = report.examples.conflicting
    assert [(post.id, post.label) for post in conflict] == [("4", "positive"), ("5", "negative")]


def test_report_does_not_depend_on_order(report: LeakReport) -> None:
    again = report_of(POSTS[::-1], PRINTS[::-1], dict(sorted(PARTS.items(), reverse=True)))
    assert replace(again, examples=report.examples) == report


def test_report_survives_its_file(report: LeakReport, tmp_path: Path) -> None:
    report.write(tmp_path / "leaks.json")
    assert LeakReport.read(tmp_path / "leaks.json") == report


def test_posts_in_no_part_leak_nothing() -> None:
    some = {key: part for key, part in PARTS.items() if key not in "13"}
    report = report_of(POSTS, PRINTS, some)
    assert duplicates_between(report, "test", "val") == CrossPartDuplicates(
        "test", "val", caption=0, image=0, looks=0, any=0
    )
    assert report.groups["any"].posts == 5
    assert report.leak_free_test_posts == 2


def test_exact_copy_leaks_in_every_way(report: LeakReport) -> None:
    copied = [
        *POSTS,
        replace(POSTS[6], id="9", caption="a new caption"),
        replace(POSTS[6], id="10", caption="A new caption"),
    ]
    prints = [*PRINTS, *(replace(PRINTS[6], id=key, image_digest="new", image_hash="f" * 16) for key in ("9", "10"))]
    before = duplicates_between(report, "test", "train")
    after = duplicates_between(report_of(copied, prints, {**PARTS, "9": "test", "10": "train"}), "test", "train")
    assert after == CrossPartDuplicates(
        "test", "train", before.caption + 1, before.image + 1, before.looks + 1, before.any + 1
    )


# Hashtags


def tagged(tag: str, count: int, label: str, start: int) -> list[Post]:
    return [post(str(start + number), f"words {tag} more", label) for number in range(count)]


def test_revealing_hashtags_have_one_label() -> None:
    posts = [
        *tagged("#Happy", 30, "positive", 0),
        *tagged("#rain", 19, "negative", 100),
        *tagged("#rain", 1, "neutral", 200),
        *tagged("#city", 12, "positive", 300),
        *tagged("#city", 3, "neutral", 400),
        *tagged("#rare", 9, "positive", 500),
    ]
    assert revealing_hashtags(posts) == (
        RevealingHashtag("#happy", "positive", posts=30, with_label=30),
        RevealingHashtag("#rain", "negative", posts=20, with_label=19),
    )


def test_hashtag_counts_once_a_post() -> None:
    posts = [post(str(number), "#sun #SUN #sunny", "positive") for number in range(10)]
    assert [(row.hashtag, row.posts) for row in revealing_hashtags(posts)] == [("#sun", 10), ("#sunny", 10)]


# On the sample and on the real posts


def test_only_grouped_split_of_sample_is_leak_free(repo_root: Path) -> None:
    dataset = read_folder(mvsa.survey(repo_root / "sample"), "agreement", 10**6, lambda: None)
    posts = list(dataset.posts)
    prints = list(dataset.fingerprints)
    duplicates = find_duplicates([post for post in posts if post.label], prints)
    clean = leak_report(posts, prints, grouped(posts, duplicates.groups, 0.2, 0.2, 7), duplicates)
    assert all((row.caption, row.image, row.looks, row.any) == (0, 0, 0, 0) for row in clean.near_duplicates)
    assert clean.leak_free_test_posts == clean.parts["test"]
    leaky = leak_report(posts, prints, stratified(posts, 0.2, 0.2, 7), duplicates)
    assert leaky.leak_free_test_posts < leaky.parts["test"]


@pytest.mark.real_data
def test_known_leaks_of_published_split(real_mvsa: Path, real_reading: LoadedDataset) -> None:
    """28 of 519 test captions are also in train. 3 of them are links only, and count as captions without words.

    Ignoring mentions gives two more, and 30 test posts have a near-duplicate in train of any kind.
    """
    posts = list(real_reading.posts)
    prints = list(real_reading.fingerprints)
    duplicates = find_duplicates([post for post in posts if post.label], prints)
    report = leak_report(posts, prints, predefined_split(posts, real_mvsa / "splits"), duplicates)
    leaked = duplicates_between(report, "test", "train")
    assert (leaked.caption, report.captions_without_words["test"]) == (27, 3)
    assert leaked.any >= 28
    assert report.images.surplus_identical >= 54
    assert report.groups["caption"].groups >= 190
    assert report.groups["any"].conflicting == 51
    happy = next(row for row in report.hashtags if row.hashtag == "#happy")
    assert happy == RevealingHashtag("#happy", "positive", posts=50, with_label=50)
    fourth = leak_report(posts, prints, predefined_split(posts, real_mvsa / "splits", 4), duplicates)
    assert duplicates_between(fourth, "test", "train").caption >= 64
