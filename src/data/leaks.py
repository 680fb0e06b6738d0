"""Leaks of a split: near-duplicates in two parts or with two labels, and hashtags that give a label away."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from src.core.data_outputs import (
    CrossPartDuplicates,
    ExampleDuplicates,
    ExamplePost,
    ExamplePostOfPart,
    GroupCounts,
    ImageCounts,
    LeakExamples,
    LeakReport,
    RevealingHashtag,
)
from src.core.records import PARTS, Fingerprint, Post, leak_free, numeric_id_key
from src.data.captions import hashtags, normalised
from src.data.duplicates import KINDS, MAX_DISTANCE, Duplicates, Groups

ANY = "any"
RULES = {
    "caption": "the same words and hashtags, whatever their case, without links, RT and mentions",
    "image": "the same bytes",
    "looks": f"perceptual hashes (pHash, 64 bits) that differ in {MAX_DISTANCE} bits at most",
    ANY: "of one group by any of these or by the posts' own column group, directly or through other posts",
}
# Posts of the first part are counted that have a near-duplicate in the second.
PART_PAIRS = (("test", "train"), ("test", "val"), ("val", "train"), ("val", "test"))
# A hashtag gives a label away if at least so many posts carry it, and at least this share of them has that label.
MIN_POSTS = 10
MIN_SHARE = 0.9
MAX_EXAMPLES = 5


def leak_report(
    posts: Sequence[Post], fingerprints: Iterable[Fingerprint], part_of: Mapping[str, str], duplicates: Duplicates
) -> LeakReport:
    """Report the leaks of any split. The report holds captions, so do not publish it.

    Args:
        posts: all posts that could be read.
        fingerprints: the fingerprints of the same posts.
        part_of: the part of each post that is in one, by id.
        duplicates: the near-duplicates among the labelled posts.
    """
    labelled = {post.id: post for post in posts if post.label}
    groups = {**duplicates.by_kind, ANY: duplicates.groups}
    digests = [fingerprint.image_digest for fingerprint in fingerprints]
    wordless = Counter(part_of.get(key, "") for key, post in labelled.items() if not normalised(post.caption))
    return LeakReport(
        rules=RULES,
        parts={part: list(part_of.values()).count(part) for part in PARTS},
        leak_free_test_posts=len(leak_free(part_of, duplicates.groups)),
        near_duplicates=tuple(
            CrossPartDuplicates(
                part, other, **{kind: len(_across(part_of, groups[kind], part, other)) for kind in groups}
            )
            for part, other in PART_PAIRS
        ),
        groups={kind: _count_groups(group_of, labelled) for kind, group_of in groups.items()},
        captions_without_words={part: wordless[part] for part in PARTS},
        images=ImageCounts(posts=len(digests), surplus_identical=len(digests) - len(set(digests))),
        hashtags=revealing_hashtags(labelled.values()),
        examples=LeakExamples(
            near_duplicates={kind: _example_duplicates(part_of, groups[kind], duplicates, labelled) for kind in KINDS},
            conflicting=_example_conflicts(duplicates.groups, labelled),
        ),
    )


def revealing_hashtags(posts: Iterable[Post]) -> tuple[RevealingHashtag, ...]:
    """Return the hashtags that give a label away, the most frequent first."""
    carried = Counter((tag, post.label) for post in posts for tag in hashtags(post.caption))
    posts_of: Counter[str] = Counter()
    for (tag, _), count in carried.items():
        posts_of[tag] += count
    revealing = [
        RevealingHashtag(tag, label, posts=posts_of[tag], with_label=count)
        for (tag, label), count in carried.items()
        if posts_of[tag] >= MIN_POSTS and count >= MIN_SHARE * posts_of[tag]
    ]
    return tuple(sorted(revealing, key=lambda row: (-row.posts, row.hashtag)))


def _across(part_of: Mapping[str, str], group_of: Groups, part: str, other: str) -> list[str]:
    """Return the posts of `part` that have a near-duplicate in the part `other`."""
    groups_there = {group_of[key] for key, own in part_of.items() if own == other}
    return [key for key, own in part_of.items() if own == part and group_of[key] in groups_there]


def _members(group_of: Groups) -> list[list[str]]:
    """Return the groups of more than one post."""
    members: dict[str, list[str]] = {}
    for key in sorted(group_of, key=numeric_id_key):
        members.setdefault(group_of[key], []).append(key)
    return [keys for keys in members.values() if len(keys) > 1]


def _count_groups(group_of: Groups, posts: Mapping[str, Post]) -> GroupCounts:
    members = _members(group_of)
    return GroupCounts(
        groups=len(members),
        posts=sum(map(len, members)),
        conflicting=sum(_conflicting(keys, posts) for keys in members),
    )


def _conflicting(keys: Sequence[str], posts: Mapping[str, Post]) -> bool:
    return len({posts[key].label for key in keys}) > 1


def _example_duplicates(
    part_of: Mapping[str, str], group_of: Groups, duplicates: Duplicates, posts: Mapping[str, Post]
) -> tuple[ExampleDuplicates, ...]:
    """Return some test posts, each with a near-duplicate in train, and everything that is alike in the two."""
    duplicate_in_train = {group_of[key]: key for key, part in part_of.items() if part == "train"}
    pairs = [
        (key, duplicate_in_train[group_of[key]]) for key in _across(part_of, group_of, "test", "train")[:MAX_EXAMPLES]
    ]
    return tuple(
        ExampleDuplicates(
            tuple(duplicates.kinds(*pair)),
            tuple(ExamplePostOfPart(key, part_of[key], posts[key].label, posts[key].caption) for key in pair),
        )
        for pair in pairs
    )


def _example_conflicts(group_of: Groups, posts: Mapping[str, Post]) -> tuple[tuple[ExamplePost, ...], ...]:
    """Return some groups of near-duplicates that have several labels."""
    conflicting = [keys for keys in _members(group_of) if _conflicting(keys, posts)]
    return tuple(
        tuple(ExamplePost(key, posts[key].label, posts[key].caption) for key in keys)
        for keys in conflicting[:MAX_EXAMPLES]
    )
