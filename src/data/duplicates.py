"""Near-duplicates: posts with the same caption, the same image file or similar images, directly or through others.

Groups that came with the posts, such as those of one author, are joined with them.

A test post whose near-duplicate was trained on tests nothing, and MVSA comes from Twitter, which is full of retweets.

The largest distance of two looks was chosen by viewing all pairs of MVSA-Single's 4,869 images (pHash, 64 bits):

| bits that differ |   0 | 2 | 4 | 6 | 8 | 10 | 12 |  14 |    16 |
| pairs            | 200 | 4 | 1 | 1 | 0 | 10 | 45 | 349 | 2,257 |

Up to 6 bits all pairs are near-duplicates; 57 of them have the same bytes, and those at 4 and 6 show the same goods in
two colours. At 10 bits two of ten pairs are near-duplicates, at 12 hardly any. At 16 a third of all images are linked.
dHash pairs different images at 2 of 64 bits already.
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
    """The group of near-duplicates of each post, by id.

    A group has the name of its first post in numeric order. A post without near-duplicates is a group of its own.
    """

    # For each of `KINDS`, the groups of posts that are alike in that way.
    by_kind: Mapping[str, Groups]
    # The groups of posts that are alike in any way, or of one group that came with the posts.
    groups: Groups

    def kinds(self, first: str, second: str) -> list[str]:
        """Return the ways in which two posts are alike. It is empty if they are in one group only through others."""
        return [kind for kind in KINDS if self.by_kind[kind][first] == self.by_kind[kind][second]]


def find_duplicates(posts: Sequence[Post], fingerprints: Iterable[Fingerprint]) -> Duplicates:
    """Return the near-duplicates among posts. The order of the posts does not matter.

    Args:
        posts: the posts.
        fingerprints: the fingerprints of these posts, and possibly of others.
    """
    ids = sorted((post.id for post in posts), key=numeric_id_key)
    fingerprint_of = {fingerprint.id: fingerprint for fingerprint in fingerprints}
    caption = {post.id: normalised(post.caption) for post in posts}
    pairs = {
        CAPTION: list(_equal([caption[key] for key in ids])),
        IMAGE: list(_equal([fingerprint_of[key].image_digest for key in ids])),
        LOOKS: list(_alike([fingerprint_of[key].image_hash for key in ids])),
    }
    group = {post.id: post.group for post in posts}
    all_pairs = [*_equal([group[key] for key in ids]), *(pair for kind in KINDS for pair in pairs[kind])]
    return Duplicates({kind: _join(ids, pairs[kind]) for kind in KINDS}, _join(ids, all_pairs))


Pair = tuple[int, int]


def _equal(values: Sequence[str]) -> Iterator[Pair]:
    """Yield the places of equal values, each with the first of them. Empty values equal nothing."""
    first: dict[str, int] = {}
    for place, value in enumerate(values):
        if value and first.setdefault(value, place) != place:
            yield first[value], place


def _alike(hashes: Sequence[str]) -> Iterator[Pair]:
    """Yield the places of hashes that differ in at most `MAX_DISTANCE` bits."""
    import numpy as np

    yield from _equal(hashes)
    place_of = {value: place for place, value in reversed(list(enumerate(hashes))) if value}
    places = list(place_of.values())
    bits = np.array([int(value, 16) for value in place_of], dtype=np.uint64)
    for row, own in enumerate(bits):
        near = np.flatnonzero(np.bitwise_count(bits[row + 1 :] ^ own) <= MAX_DISTANCE)
        yield from ((places[row], places[row + 1 + step]) for step in near.tolist())


def _join(ids: Sequence[str], pairs: Sequence[Pair]) -> dict[str, str]:
    """Return the group of each id: ids of a pair are in one group."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = [[pair[end] for pair in pairs] for end in (0, 1)]
    graph = coo_array(([1] * len(pairs), ends), shape=(len(ids), len(ids)))
    _, component_of = connected_components(graph, directed=False)
    name_of: dict[int, str] = {}
    return {key: name_of.setdefault(component, key) for key, component in zip(ids, component_of.tolist(), strict=True)}
