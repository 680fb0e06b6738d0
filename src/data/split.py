"""Divides labelled posts into train, val and test."""

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from src.core.errors import Refusal
from src.core.labels import TONES
from src.core.records import PARTS, Post


def stratified(posts: Sequence[Post], val: float, test: float, seed: int) -> dict[str, str]:
    """The part of `PARTS` of each labelled post, every part with the tones in the same shares.

    test is rounded up and val down, which gives 1,555/518/519 of MVSA's 2,592 at 0.2 and 0.2, as MMBT and QMF have it.
    The same posts in another order are divided the same way.

    Args:
        posts: those without a label are left out.
        val: the share of val, in (0, 1).
        test: the share of test, in (0, 1).
        seed: which of the many possible divisions.

    Raises:
        Refusal: there are too few posts of a tone for every part to have one.
    """
    labels = {post.id: post.label for post in posts if post.label}
    num_test = math.ceil(_share(test) * len(labels))
    num_val = math.floor(_share(val) * len(labels))
    try:
        rest, for_test = _divide(sorted(labels), labels, num_test, seed)
        for_train, for_val = _divide(rest, labels, num_val, seed)
    except ValueError as error:
        raise _too_few(labels) from error
    ids = dict(zip(PARTS, (for_train, for_val, for_test), strict=True))
    if any({labels[key] for key in part} != set(TONES) for part in ids.values()):
        raise _too_few(labels)
    part_of = {key: part for part, keys in ids.items() for key in keys}
    return {key: part_of[key] for key in labels}


def _divide(ids: list[str], labels: dict[str, str], num_second: int, seed: int) -> tuple[list[str], list[str]]:
    from sklearn.model_selection import train_test_split

    strata = [labels[key] for key in ids]
    first, second = train_test_split(ids, test_size=num_second, stratify=strata, random_state=seed)
    return first, second


def _share(value: float) -> Fraction:
    # 0.7 * 10 is 7.000000000000001 in binary, which would be rounded up to 8.
    return Fraction(str(value))


def _too_few(labels: dict[str, str]) -> Refusal:
    counts = Counter(labels.values())
    found = ", ".join(f"{counts[tone]} {tone}" for tone in TONES)
    return Refusal(f"too few posts to have every tone in {', '.join(PARTS)}: {found}; add posts or change split")
