"""What a division of the posts gives away: twins in two parts, twins of two labels, hashtags that say the label."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from src.core.records import PARTS, Fingerprint, Post, leak_free, numeric_id_key
from src.data.captions import hashtags, normalised
from src.data.duplicates import KINDS, MAX_DISTANCE, Duplicates, Groups

ANY = "any"
RULES = {
    "caption": "the same words and hashtags, whatever their case, without links, RT and mentions",
    "image": "the same bytes",
    "looks": f"perceptual hashes (pHash, 64 bits) that differ in {MAX_DISTANCE} bits at most",
    ANY: "of one group by any of these, directly or through other posts",
}
# Posts of the first part are counted that have a twin in the second.
BORDERS = (("test", "train"), ("test", "val"), ("val", "train"), ("val", "test"))
# A hashtag gives a label away if so many posts carry it, and so large a share of them has that label.
MIN_POSTS, MIN_SHARE = 10, 0.9
MOST_EXAMPLES = 5


def leak_report(
    posts: Sequence[Post], fingerprints: Iterable[Fingerprint], part_of: Mapping[str, str], found: Duplicates
) -> dict[str, Any]:
    """The leaks of any division, as JSON has them. It holds captions of posts, so it is no file to publish.

    Args:
        posts: all that could be read.
        fingerprints: of the same posts.
        part_of: the part of each post that is in one, by id.
        found: the near-duplicates among the labelled posts.
    """
    labelled = {post.id: post for post in posts if post.label}
    groups = {**found.by_kind, ANY: found.groups}
    digests = [each.image_digest for each in fingerprints]
    wordless = Counter(part_of.get(key, "") for key, post in labelled.items() if not normalised(post.caption))
    return {
        "rules": RULES,
        "parts": {part: list(part_of.values()).count(part) for part in PARTS},
        "leak_free_test_posts": len(leak_free(part_of, found.groups)),
        "twins": [
            {
                "part": part,
                "twin_in": other,
                **{kind: len(_across(part_of, groups[kind], part, other)) for kind in groups},
            }
            for part, other in BORDERS
        ],
        "groups": {kind: _tally(group_of, labelled) for kind, group_of in groups.items()},
        "captions_without_words": {part: wordless[part] for part in PARTS},
        "images": {"posts": len(digests), "surplus_identical": len(digests) - len(set(digests))},
        "hashtags": revealing_hashtags(labelled.values()),
        "examples": {
            "twins": {kind: _twins(part_of, groups[kind], found, labelled) for kind in KINDS},
            "conflicting": _conflicts(found.groups, labelled),
        },
    }


def revealing_hashtags(posts: Iterable[Post]) -> list[dict[str, Any]]:
    """The hashtags that give a label away: how many posts carry each, and how many of these have its label.

    The most frequent come first.
    """
    carried = Counter((tag, post.label) for post in posts for tag in hashtags(post.caption))
    posts_of: Counter[str] = Counter()
    for (tag, _), count in carried.items():
        posts_of[tag] += count
    found = [
        {"hashtag": tag, "label": label, "posts": posts_of[tag], "with_label": count}
        for (tag, label), count in carried.items()
        if posts_of[tag] >= MIN_POSTS and count >= MIN_SHARE * posts_of[tag]
    ]
    return sorted(found, key=lambda row: (-row["posts"], row["hashtag"]))


def _across(part_of: Mapping[str, str], group_of: Groups, part: str, other: str) -> list[str]:
    """The posts of a part that have a twin in the other."""
    there = {group_of[key] for key, own in part_of.items() if own == other}
    return [key for key, own in part_of.items() if own == part and group_of[key] in there]


def _members(group_of: Groups) -> list[list[str]]:
    """The groups of more than one post."""
    members: dict[str, list[str]] = {}
    for key in sorted(group_of, key=numeric_id_key):
        members.setdefault(group_of[key], []).append(key)
    return [keys for keys in members.values() if len(keys) > 1]


def _tally(group_of: Groups, posts: Mapping[str, Post]) -> dict[str, int]:
    members = _members(group_of)
    return {
        "groups": len(members),
        "posts": sum(map(len, members)),
        "conflicting": sum(_conflicting(keys, posts) for keys in members),
    }


def _conflicting(keys: Sequence[str], posts: Mapping[str, Post]) -> bool:
    return len({posts[key].label for key in keys}) > 1


def _twins(
    part_of: Mapping[str, str], group_of: Groups, found: Duplicates, posts: Mapping[str, Post]
) -> list[dict[str, Any]]:
    """Some test posts, each with a twin that is trained on, and all the ways in which the two are alike."""
    twin = {group_of[key]: key for key, part in part_of.items() if part == "train"}
    pairs = [(key, twin[group_of[key]]) for key in _across(part_of, group_of, "test", "train")[:MOST_EXAMPLES]]
    return [{"kinds": found.kinds(*pair), "posts": [_shown(posts[key], part_of) for key in pair]} for pair in pairs]


def _conflicts(group_of: Groups, posts: Mapping[str, Post]) -> list[list[dict[str, str]]]:
    """Some groups whose labels contradict each other."""
    conflicting = [keys for keys in _members(group_of) if _conflicting(keys, posts)]
    return [[_shown(posts[key], {}) for key in keys] for keys in conflicting[:MOST_EXAMPLES]]


def _shown(post: Post, part_of: Mapping[str, str]) -> dict[str, str]:
    part = {"part": part_of[post.id]} if post.id in part_of else {}
    return {"id": post.id, **part, "label": post.label, "caption": post.caption}
