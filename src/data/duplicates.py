"""Near-duplicates: posts that say the same, show the same file, or look the same, directly or through others.

A post whose near-duplicate was trained on is no test of anything, and MVSA, drawn from Twitter, is full of retweets.

How far two looks may differ was found by looking at all pairs of MVSA-Single's 4,869 images (pHash, 64 bits):

| bits that differ |   0 | 2 | 4 | 6 | 8 | 10 | 12 |  14 |    16 |
| pairs            | 200 | 4 | 1 | 1 | 0 | 10 | 45 | 349 | 2,257 |

Up to 6 all are twins (57 of the same bytes; those at 4 and 6 are the same goods in two colours), of the ten at 10 two
are, at 12 hardly any, and at 16 a third of all images hang together. dHash has false friends at 2 of 64 bits already.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from src.core.records import Fingerprint, Post, numeric_id_key
from src.data.captions import normalised

CAPTION, IMAGE, LOOKS = KINDS = ("caption", "image", "looks")
MAX_DISTANCE = 8

Groups = Mapping[str, str]


@dataclass(frozen=True)
class Duplicates:
    """Which posts are near-duplicates: the group of each post, by id.

    A group has the name of its first post in numeric order; a post that is like no other is a group of its own.

    Attributes:
        by_kind: for each of `KINDS`, the groups of posts that are alike in that way.
        groups: of posts that are alike in any way, which joins groups of the different kinds.
    """

    by_kind: Mapping[str, Groups]
    groups: Groups

    def kinds(self, first: str, second: str) -> list[str]:
        """In which ways two posts are alike; none where they are in one group through others alone."""
        return [kind for kind in KINDS if self.by_kind[kind][first] == self.by_kind[kind][second]]


def find_duplicates(posts: Sequence[Post], fingerprints: Iterable[Fingerprint]) -> Duplicates:
    """The near-duplicates among posts, whatever their order; `fingerprints` has those of all of them, or of more."""
    ids = sorted((post.id for post in posts), key=numeric_id_key)
    image = {each.id: each for each in fingerprints}
    caption = {post.id: normalised(post.caption) for post in posts}
    pairs = {
        CAPTION: list(_equal([caption[key] for key in ids])),
        IMAGE: list(_equal([image[key].image_digest for key in ids])),
        LOOKS: list(_alike([image[key].image_hash for key in ids])),
    }
    every = [pair for kind in KINDS for pair in pairs[kind]]
    return Duplicates({kind: _joined(ids, pairs[kind]) for kind in KINDS}, _joined(ids, every))


Pair = tuple[int, int]


def _equal(values: Sequence[str]) -> Iterator[Pair]:
    """The places of equal values, each with the first of its like; an empty value equals nothing."""
    first: dict[str, int] = {}
    for place, value in enumerate(values):
        if value and first.setdefault(value, place) != place:
            yield first[value], place


def _alike(hashes: Sequence[str]) -> Iterator[Pair]:
    """The places of hashes that differ in few bits."""
    import numpy as np

    yield from _equal(hashes)
    place_of = {value: place for place, value in reversed(list(enumerate(hashes))) if value}
    places = list(place_of.values())
    bits = np.array([int(value, 16) for value in place_of], dtype=np.uint64)
    for row, own in enumerate(bits):
        near = np.flatnonzero(np.bitwise_count(bits[row + 1 :] ^ own) <= MAX_DISTANCE)
        yield from ((places[row], places[row + 1 + step]) for step in near.tolist())


def _joined(ids: Sequence[str], pairs: Sequence[Pair]) -> dict[str, str]:
    """The group of each id, once what is in a pair is in one group."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = [[pair[end] for pair in pairs] for end in (0, 1)]
    graph = coo_array(([1] * len(pairs), ends), shape=(len(ids), len(ids)))
    _, component_of = connected_components(graph, directed=False)
    name_of: dict[int, str] = {}
    return {key: name_of.setdefault(component, key) for key, component in zip(ids, component_of.tolist(), strict=True)}
