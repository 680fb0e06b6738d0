import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.core.records import Fingerprint, Post
from src.data import mvsa
from src.data.duplicates import find_duplicates
from src.data.leaks import leak_report, revealing_hashtags
from src.data.published_splits import predefined_split
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


def report_of(posts: list[Post], prints: list[Fingerprint], part_of: dict[str, str]) -> dict[str, Any]:
    found = find_duplicates([post for post in posts if post.label], prints)
    return leak_report(posts, prints, part_of, found)


@pytest.fixture
def report() -> dict[str, Any]:
    return report_of(POSTS, PRINTS, PARTS)


def twins(report: dict[str, Any], part: str, other: str) -> dict[str, int]:
    row = next(row for row in report["twins"] if (row["part"], row["twin_in"]) == (part, other))
    return {kind: row[kind] for kind in ("caption", "image", "looks", "any")}


def test_twins_across_each_border_are_counted_by_kind(report: dict[str, Any]) -> None:
    assert twins(report, "test", "train") == {"caption": 2, "image": 0, "looks": 0, "any": 2}
    assert twins(report, "test", "val") == {"caption": 0, "image": 1, "looks": 0, "any": 1}
    assert twins(report, "val", "test") == {"caption": 0, "image": 1, "looks": 0, "any": 1}
    # Of no kind, for they are alike through post 2 alone.
    assert twins(report, "val", "train") == {"caption": 0, "image": 0, "looks": 0, "any": 1}
    assert (report["leak_free_test_posts"], report["parts"]) == (1, {"train": 3, "val": 1, "test": 3})


def test_groups_and_those_of_several_labels_are_counted(report: dict[str, Any]) -> None:
    assert report["groups"]["caption"] == {"groups": 2, "posts": 4, "conflicting": 1}
    assert report["groups"]["image"] == {"groups": 1, "posts": 2, "conflicting": 0}
    assert report["groups"]["any"] == {"groups": 2, "posts": 5, "conflicting": 1}


def test_surplus_images_are_counted_among_all_posts_and_empty_captions_by_part(report: dict[str, Any]) -> None:
    assert report["images"] == {"posts": 8, "surplus_identical": 2}
    assert report["captions_without_words"] == {"train": 1, "val": 0, "test": 1}


def test_the_examples_show_both_posts_and_why(report: dict[str, Any]) -> None:
    first, second = report["examples"]["twins"]["caption"]
    assert first["kinds"] == ["caption"]
    assert first["posts"] == [
        {"id": "2", "part": "test", "label": "positive", "caption": "RT @a: what a day"},
        {"id": "1", "part": "train", "label": "positive", "caption": "what a day"},
    ]
    assert [shown["id"] for shown in second["posts"]] == ["5", "4"]
    (conflict,) = report["examples"]["conflicting"]
    assert [(shown["id"], shown["label"]) for shown in conflict] == [("4", "positive"), ("5", "negative")]


def test_the_report_is_json_and_the_same_in_any_order(report: dict[str, Any]) -> None:
    again = report_of(POSTS[::-1], PRINTS[::-1], dict(sorted(PARTS.items(), reverse=True)))
    for examples in (report.pop("examples"), again.pop("examples")):
        assert set(examples) == {"twins", "conflicting"}
    assert again == report
    assert json.loads(json.dumps(report)) == report


def test_posts_in_no_part_are_of_groups_and_across_no_border() -> None:
    some = {key: part for key, part in PARTS.items() if key not in "13"}
    report = report_of(POSTS, PRINTS, some)
    assert twins(report, "test", "val") == {"caption": 0, "image": 0, "looks": 0, "any": 0}
    assert report["groups"]["any"]["posts"] == 5
    assert report["leak_free_test_posts"] == 2


def test_an_exact_copy_of_a_test_post_in_train_is_a_leak_of_every_kind(report: dict[str, Any]) -> None:
    copied = [
        *POSTS,
        replace(POSTS[6], id="9", caption="a new caption"),
        replace(POSTS[6], id="10", caption="A new caption"),
    ]
    prints = [*PRINTS, *(replace(PRINTS[6], id=key, image_digest="new", image_hash="f" * 16) for key in ("9", "10"))]
    found = report_of(copied, prints, {**PARTS, "9": "test", "10": "train"})
    before, after = twins(report, "test", "train"), twins(found, "test", "train")
    assert after == {kind: count + 1 for kind, count in before.items()}


# Hashtags


def tagged(tag: str, count: int, label: str, start: int) -> list[Post]:
    return [post(str(start + number), f"words {tag} more", label) for number in range(count)]


def test_hashtags_that_nearly_always_have_one_label_are_found() -> None:
    posts = [
        *tagged("#Happy", 30, "positive", 0),
        *tagged("#rain", 19, "negative", 100),
        *tagged("#rain", 1, "neutral", 200),
        *tagged("#city", 12, "positive", 300),
        *tagged("#city", 3, "neutral", 400),
        *tagged("#rare", 9, "positive", 500),
    ]
    assert revealing_hashtags(posts) == [
        {"hashtag": "#happy", "label": "positive", "posts": 30, "with_label": 30},
        {"hashtag": "#rain", "label": "negative", "posts": 20, "with_label": 19},
    ]


def test_a_hashtag_counts_once_a_post_and_a_longer_one_is_another() -> None:
    posts = [post(str(number), "#sun #SUN #sunny", "positive") for number in range(10)]
    assert [(row["hashtag"], row["posts"]) for row in revealing_hashtags(posts)] == [("#sun", 10), ("#sunny", 10)]


# On the sample and on the real posts


def test_a_grouped_split_of_the_sample_has_no_leak_and_a_stratified_one_has(repo_root: Path) -> None:
    reading = mvsa.read_folder(mvsa.survey(repo_root / "sample"), "agreement", 10**6, lambda: None)
    posts, prints = list(reading.posts), list(reading.fingerprints)
    found = find_duplicates([post for post in posts if post.label], prints)
    clean = leak_report(posts, prints, grouped(posts, found.groups, 0.2, 0.2, 7), found)
    assert all(row[kind] == 0 for row in clean["twins"] for kind in clean["groups"])
    assert clean["leak_free_test_posts"] == clean["parts"]["test"]
    leaky = leak_report(posts, prints, stratified(posts, 0.2, 0.2, 7), found)
    assert leaky["leak_free_test_posts"] < leaky["parts"]["test"]


@pytest.mark.real_data
def test_the_known_leaks_of_the_published_split_are_found(real_mvsa: Path, real_reading: mvsa.LoadedDataset) -> None:
    """28 of 519 test captions stand in train, of which 3 are but links: those are counted as captions without words.

    Two more are found once mentions do not count, and 30 test posts have a twin in train of any kind.
    """
    posts, prints = list(real_reading.posts), list(real_reading.fingerprints)
    found = find_duplicates([post for post in posts if post.label], prints)
    report = leak_report(posts, prints, predefined_split(posts, real_mvsa / "splits"), found)
    leaked = twins(report, "test", "train")
    assert (leaked["caption"], report["captions_without_words"]["test"]) == (27, 3)
    assert leaked["any"] >= 28
    assert report["images"]["surplus_identical"] >= 54
    assert report["groups"]["caption"]["groups"] >= 190
    assert report["groups"]["any"]["conflicting"] == 51
    happy = next(row for row in report["hashtags"] if row["hashtag"] == "#happy")
    assert (happy["posts"], happy["with_label"], happy["label"]) == (50, 50, "positive")
    fourth = leak_report(posts, prints, predefined_split(posts, real_mvsa / "splits", 4), found)
    assert twins(fourth, "test", "train")["caption"] >= 64
