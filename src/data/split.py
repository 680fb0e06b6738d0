"""Divides labelled posts into train, val and test."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from src.core.errors import UserError
from src.core.labels import TONES
from src.core.records import PARTS, Post, numeric_id_key

# Shares are kept to a fiftieth at least: dealing 4,511 posts to five folds takes seconds, to fifty a minute.
_MOST_FOLDS = 50
# A fold of so many times the mean has a group that does not fit into a part of its share.
_MOST_TIMES = 2


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
        UserError: there are too few posts of a tone for every part to have one.
    """
    labels = {post.id: post.label for post in posts if post.label}
    num_test = math.ceil(_share(test) * len(labels))
    num_val = math.floor(_share(val) * len(labels))
    try:
        rest, for_test = _divide(sorted(labels), labels, num_test, seed)
        for_train, for_val = _divide(rest, labels, num_val, seed)
    except ValueError as error:
        raise _too_few(labels) from error
    return complete(labels, for_train, for_val, for_test)


def grouped(posts: Sequence[Post], group_of: Mapping[str, str], val: float, test: float, seed: int) -> dict[str, str]:
    """The same with all posts of a group in one part; shares and tones are as near as the groups allow.

    Posts are dealt to folds by scikit-learn's StratifiedGroupKFold, and a part is so many folds: of five at 0.2 and
    0.2, one is test, one val and three are train. Where a group is too large for that, or the groups of a tone are too
    few, a part may be one fold of three. A group that is larger than a part is trained on.

    Args:
        posts: those without a label are left out.
        group_of: the group of each labelled post, by id.
        val: the share of val, in (0, 1).
        test: the share of test, in (0, 1).
        seed: which of the many possible divisions.

    Raises:
        UserError: there are too few posts of a tone, or too few groups, for every part to have one.
    """
    labels = {post.id: post.label for post in posts if post.label}
    most = min(_rarest(labels), len({group_of[key] for key in labels}))
    divisions: list[list[list[str]]] = []
    for num_folds, num_val, num_test in (_folds(labels, _share(val), _share(test)), (len(PARTS), 1, 1)):
        if num_val + num_test < num_folds <= most:
            division, is_even = _dealt(labels, group_of, num_folds, num_val, num_test, seed)
            if _has_all(labels, division):
                divisions.append(division)
                if is_even:
                    break
    if not divisions:
        raise _too_few(labels) if _rarest(labels) < len(PARTS) else _too_few_groups(labels, group_of)
    wanted = (val * len(labels), test * len(labels))
    nearest = min(divisions, key=lambda parts: sum(abs(len(parts[1 + k]) - wanted[k]) for k in range(2)))
    return complete(labels, *nearest)


def _dealt(
    labels: Mapping[str, str], group_of: Mapping[str, str], num_folds: int, num_val: int, num_test: int, seed: int
) -> tuple[list[list[str]], bool]:
    """The ids of train, val and test, and whether the groups have let the folds be of about one size."""
    folds = _assign_folds(sorted(labels, key=numeric_id_key), labels, group_of, num_folds, seed)
    # A group that is larger than a part can only be trained on.
    folds.sort(key=lambda fold: len(fold) * num_folds > _MOST_TIMES * len(labels))
    chosen = (folds[num_test + num_val :], folds[num_test:][:num_val], folds[:num_test])
    is_even = len(folds[-1]) * num_folds <= _MOST_TIMES * len(labels)
    return [[key for fold in part for key in fold] for part in chosen], is_even


def complete(
    labels: Mapping[str, str], train: Iterable[str], val: Iterable[str], test: Iterable[str]
) -> dict[str, str]:
    """The part of each post, in the order of `labels`; those in no part are left out.

    Raises:
        UserError: a part has no post of some tone.
    """
    ids = dict(zip(PARTS, map(set, (train, val, test)), strict=True))
    if not _has_all(labels, ids.values()):
        raise _too_few(labels)
    part_of = {key: part for part, keys in ids.items() for key in keys}
    return {key: part_of[key] for key in labels if key in part_of}


def _has_all(labels: Mapping[str, str], parts: Iterable[Iterable[str]]) -> bool:
    """Whether every part has every tone."""
    return all({labels[key] for key in part} == set(TONES) for part in parts)


def _divide(ids: list[str], labels: dict[str, str], num_second: int, seed: int) -> tuple[list[str], list[str]]:
    from sklearn.model_selection import train_test_split

    strata = [labels[key] for key in ids]
    first, second = train_test_split(ids, test_size=num_second, stratify=strata, random_state=seed)
    return first, second


def _folds(labels: Mapping[str, str], val: Fraction, test: Fraction) -> tuple[int, int, int]:
    """How many folds there are, as far as each can have every tone, and how many of them are val and test."""
    denominators = (share.limit_denominator(_MOST_FOLDS).denominator for share in (val, test))
    num_folds = min(math.lcm(*denominators), _MOST_FOLDS, _rarest(labels))
    return num_folds, max(1, round(val * num_folds)), max(1, round(test * num_folds))


def _rarest(labels: Mapping[str, str]) -> int:
    return min(list(labels.values()).count(tone) for tone in TONES)


def _assign_folds(
    ids: list[str], labels: Mapping[str, str], group_of: Mapping[str, str], num_folds: int, seed: int
) -> list[list[str]]:
    """The ids in folds of about one size and the tones in about the same shares, each group in one fold."""
    from sklearn.model_selection import StratifiedGroupKFold

    number_of: dict[str, int] = {}
    groups = [number_of.setdefault(group_of[key], len(number_of)) for key in ids]
    folds = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    dealt = folds.split(ids, [labels[key] for key in ids], groups)
    return [[ids[place] for place in places] for _, places in dealt]


def _share(value: float) -> Fraction:
    # 0.7 * 10 is 7.000000000000001 in binary, which would be rounded up to 8.
    return Fraction(str(value))


def _too_few(labels: Mapping[str, str]) -> UserError:
    counts = Counter(labels.values())
    found = ", ".join(f"{counts[tone]} {tone}" for tone in TONES)
    return UserError(f"too few posts to have every tone in {', '.join(PARTS)}: {found}; add posts or change split")


def _too_few_groups(labels: Mapping[str, str], group_of: Mapping[str, str]) -> UserError:
    groups = {tone: {group_of[key] for key, label in labels.items() if label == tone} for tone in TONES}
    in_words = ", ".join(f"{len(names)} with {tone}" for tone, names in groups.items())
    return UserError(
        f"too few groups of near-duplicates to have every tone in {', '.join(PARTS)} with each group in one part: "
        f"{len(set().union(*groups.values()))} in all, {in_words}; add posts of other pictures and captions, "
        "or set split.kind: stratified, which parts near-duplicates"
    )
