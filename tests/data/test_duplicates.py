import random
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from src.core.records import Fingerprint, Post
from src.data import mvsa
from src.data.captions import normalised
from src.data.duplicates import KINDS, MAX_DISTANCE, Duplicates, find_duplicates
from src.data.reading import LoadedDataset, read_folder

HASH = 0x8F3C_51A2_77D0_9E46


def post(key: int | str, caption: str = "", label: str = "positive") -> Post:
    return Post(str(key), "", caption or f"caption {key}", label, label, label, "")


def print_of(key: int | str, digest: str = "", bits: int | None = None) -> Fingerprint:
    """Return a fingerprint that is like no other, except in the given fields."""
    own = random.Random(str(key)).getrandbits(64) if bits is None else bits
    return Fingerprint(str(key), digest or f"digest {key}", f"{own:016x}")


def flipped(bits: int, count: int) -> int:
    return bits ^ ((1 << count) - 1)


def partition(groups: dict[str, str] | Duplicates) -> set[frozenset[str]]:
    """Return the groups of more than one post, without their names."""
    group_of = groups.groups if isinstance(groups, Duplicates) else groups
    members = defaultdict(set)
    for key, group in group_of.items():
        members[group].add(key)
    return {frozenset(keys) for keys in members.values() if len(keys) > 1}


# Captions


@pytest.mark.parametrize(
    ("caption", "same"),
    [
        ("What a DAY", "what a day"),
        ("RT @somebody: what a day", "what a day"),
        ("RT @a: RT @b: what a day http://t.co/abc", "what a day"),
        ("what\n a   day ", "what a day"),
        ("@friend what a day @other_friend", "what a day"),
        ("what a day https://t.co/x http://t.co/y", "what a day"),
        ("what a day htt\u2026", "what a day"),
        ("what a day http:/\u2026", "what a day"),
        ("What a day!!! \U0001f600", "what a day"),
        ("STRASSE", "stra\u00dfe"),
        ("cafe\u0301", "caf\u00e9"),
    ],
)
def test_equal_captions_are_duplicates(caption: str, same: str) -> None:
    assert normalised(caption) == normalised(same)


@pytest.mark.parametrize(
    ("caption", "other"),
    [
        ("what a day", "what a night"),
        ("a smart day", "a sma day"),
        ("#happy day", "happy day"),
        ("\u0434\u043e\u0431\u0440\u043e\u0435 \u0443\u0442\u0440\u043e", "\u0434\u043e\u0431\u0440\u044b\u0439"),
        ("#\u96e8", "#\u6674"),
    ],
)
def test_different_captions_are_not_duplicates(caption: str, other: str) -> None:
    assert normalised(caption) != normalised(other)


@pytest.mark.parametrize(
    "caption", ["", "  ", "RT @somebody: http://t.co/abc", "@a @b \U0001f600", "#", "...", "h\u2026"]
)
def test_wordless_captions_have_no_duplicates(caption: str) -> None:
    assert normalised(caption) == ""
    posts = [replace(post(key), caption=caption) for key in (1, 2)]
    assert partition(find_duplicates(posts, [print_of(1), print_of(2)])) == set()


# Groups


def test_each_kind_finds_its_duplicates() -> None:
    posts = [post(1, "what a day"), post(2, "RT @a: What a day"), *(post(key) for key in range(3, 8))]
    prints = [
        print_of(1),
        print_of(2),
        print_of(3, "same"),
        print_of(4, "same"),
        print_of(5, bits=HASH),
        print_of(6, bits=flipped(HASH, MAX_DISTANCE)),
        print_of(7, bits=~HASH & (2**64 - 1)),
    ]
    duplicates = find_duplicates(posts, prints)
    assert {kind: partition(dict(duplicates.by_kind[kind])) for kind in KINDS} == {
        "caption": {frozenset("12")},
        "image": {frozenset("34")},
        "looks": {frozenset("56")},
    }
    assert partition(duplicates) == {frozenset("12"), frozenset("34"), frozenset("56")}


@pytest.mark.parametrize(("bits", "alike"), [(0, True), (MAX_DISTANCE, True), (MAX_DISTANCE + 1, False)])
def test_looks_differ_in_few_bits(bits: int, alike: bool) -> None:
    duplicates = find_duplicates([post(1), post(2)], [print_of(1, bits=HASH), print_of(2, bits=flipped(HASH, bits))])
    assert bool(partition(duplicates)) == alike


def test_groups_join_through_other_posts() -> None:
    posts = [post(1, "what a day"), post(2, "what a day"), post(3), post(4)]
    prints = [print_of(1), print_of(2, "same"), print_of(3, "same", HASH), print_of(4, bits=HASH)]
    duplicates = find_duplicates(posts, prints)
    assert partition(duplicates) == {frozenset("1234")}
    assert duplicates.kinds("1", "2") == ["caption"]
    assert duplicates.kinds("2", "3") == ["image"]
    assert duplicates.kinds("3", "4") == ["looks"]
    assert duplicates.kinds("1", "4") == []


def test_group_is_named_after_first_post() -> None:
    duplicates = find_duplicates([post(10, "same"), post(9, "same"), post(8)], [print_of(key) for key in (8, 9, 10)])
    assert duplicates.groups == {"8": "8", "9": "9", "10": "9"}


def test_images_without_hash_are_not_alike() -> None:
    prints = [Fingerprint("1", "a", ""), Fingerprint("2", "b", ""), Fingerprint("3", "a", "")]
    assert partition(find_duplicates([post(1), post(2), post(3)], prints)) == {frozenset("13")}


def test_no_posts_have_no_groups() -> None:
    assert find_duplicates([], []).groups == {}
    assert find_duplicates([post(1)], [print_of(1)]).groups == {"1": "1"}


# What must not matter, and what must


@pytest.fixture(scope="module")
def sample(repo_root: Path) -> LoadedDataset:
    return read_folder(mvsa.survey(repo_root / "sample"), "standard", 10**6, lambda: None)


def test_order_of_posts_does_not_matter(sample: LoadedDataset) -> None:
    posts, prints = list(sample.posts), list(sample.fingerprints)
    duplicates = find_duplicates(posts, prints)
    random.Random(1).shuffle(posts)
    random.Random(2).shuffle(prints)
    again = find_duplicates(posts, prints)
    assert list(again.groups.items()) == list(duplicates.groups.items())
    assert again.by_kind == duplicates.by_kind


def test_file_names_do_not_matter(sample: LoadedDataset) -> None:
    """Other ids in the same order name the same groups."""

    def other(key: str) -> str:
        return str(7000 + 3 * int(key))

    duplicates = find_duplicates(sample.posts, sample.fingerprints)
    renamed = find_duplicates(
        [replace(post, id=other(post.id)) for post in sample.posts],
        [replace(fingerprint, id=other(fingerprint.id)) for fingerprint in sample.fingerprints],
    )
    assert renamed.groups == {other(key): other(group) for key, group in duplicates.groups.items()}


def test_copy_joins_group_of_original(sample: LoadedDataset) -> None:
    duplicates = find_duplicates(sample.posts, sample.fingerprints)
    original, its_print = sample.posts[17], sample.fingerprints[17]
    copied = find_duplicates(
        [*sample.posts, replace(original, id="9000")], [*sample.fingerprints, replace(its_print, id="9000")]
    )
    assert copied.groups == {**duplicates.groups, "9000": duplicates.groups[original.id]}
    assert copied.kinds(original.id, "9000") == list(KINDS)


def test_only_copies_in_sample_look_alike(sample: LoadedDataset) -> None:
    """Its captions are made of few phrases and its pictures of few scenes, and still no two hang together by chance."""
    duplicates = find_duplicates(sample.posts, sample.fingerprints)
    assert all(fingerprint.image_hash for fingerprint in sample.fingerprints)
    assert partition(dict(duplicates.by_kind["looks"])) == partition(dict(duplicates.by_kind["image"]))
    assert Counter(duplicates.groups.values()).most_common(1)[0][1] <= 3


# On the real posts


@pytest.fixture(scope="module")
def real(real_reading: LoadedDataset) -> LoadedDataset:
    return real_reading


def known_rule(caption: str) -> str:
    """Normalise by the rule of the published counts: English letters and digits, # and @, after any RT, no links."""
    text = re.sub(r"https?:\S*", " ", caption.lower())
    text = re.sub(r"^(rt\s+@\w+:?\s*)+", " ", text).replace("@", " ")
    return " ".join(re.sub(r"[^a-z0-9#]+", " ", text).split())


def groups_by(captions: dict[str, str]) -> set[frozenset[str]]:
    members = defaultdict(set)
    for key, text in captions.items():
        members[text].add(key)
    return {frozenset(keys) for text, keys in members.items() if text and len(keys) > 1}


def conflicting(groups: set[frozenset[str]], labels: dict[str, str]) -> set[frozenset[str]]:
    return {group for group in groups if len({labels[key] for key in group}) > 1}


@pytest.mark.real_data
def test_known_real_captions_are_grouped(real: LoadedDataset) -> None:
    """190 groups, 52 of them with conflicting labels, by a rule that keeps English letters alone.

    They were counted on captions read byte by byte, as cp1252. Six of them, two with conflicting labels, are no
    near-duplicates and not found: captions in other scripts that share a hashtag or its #, and captions that are only a
    truncated link.
    """
    labels = {post.id: post.label for post in real.posts if post.label}
    captions = {post.id: post.caption for post in real.posts if post.label}
    byte_by_byte = {
        post.id: post.caption.encode(encoding).decode("latin-1")
        for post, encoding in zip(real.posts, real.encodings, strict=True)
        if post.label
    }
    known = groups_by({key: known_rule(text) for key, text in byte_by_byte.items()})
    assert (len(labels), len(known), sum(map(len, known))) == (4511, 190, 453)
    assert len(conflicting(known, labels)) == 52

    duplicates = find_duplicates([post for post in real.posts if post.label], real.fingerprints)
    own = partition(dict(duplicates.by_kind["caption"]))
    assert len(own) >= 190
    assert len(conflicting(own, labels)) == 51
    missed = {group for group in known if not any(group <= other for other in own)}
    assert (len(missed), len(conflicting(missed, labels))) == (6, 2)
    for group in missed:
        assert any(not normalised(captions[key]) or not captions[key].isascii() for key in group)


@pytest.mark.real_data
def test_known_real_images_are_grouped(real: LoadedDataset) -> None:
    digests = Counter(fingerprint.image_digest for fingerprint in real.fingerprints)
    assert len(real.fingerprints) == 4869
    assert sum(digests.values()) - len(digests) >= 54
    duplicates = find_duplicates(real.posts, real.fingerprints)
    assert Counter(duplicates.by_kind["looks"].values()).most_common(1)[0][1] <= 4
    # The largest group of all is of one caption, posted under many pictures.
    assert Counter(duplicates.groups.values()).most_common(1)[0][1] < 40
