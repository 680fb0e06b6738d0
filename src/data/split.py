"""Splits of labelled posts into train, val and test: stratified, grouped by near-duplicates, or given with posts."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from src.core.errors import UserError
from src.core.records import PARTS, Post, numeric_id_key

# Shares are met to a fiftieth. Assigning 4,511 posts to five folds takes seconds, to fifty a minute.
_MAX_FOLDS = 50
# A fold with more than so many times the mean size holds a group that is too large for a part.
_MAX_RATIO = 2


def stratified(posts: Sequence[Post], val: float, test: float, seed: int) -> dict[str, str]:
    """Return the part of each labelled post, with the same shares of labels in every part.

    The size of test is rounded up, that of val down. At 0.2 and 0.2 this gives 1,555/518/519 of MVSA's 2,592 posts, as
    in MMBT and QMF. The order of the posts does not matter.

    Args:
        posts: all posts. Those without a label are left out.
        val: the share of val, in (0, 1).
        test: the share of test, in (0, 1).
        seed: the seed of the split.

    Raises:
        UserError: a label has too few posts for all parts.
    """
    labels = {post.id: post.label for post in posts if post.label}
    num_test = math.ceil(_share(test) * len(labels))
    num_val = math.floor(_share(val) * len(labels))
    try:
        rest, test_ids = _divide(sorted(labels), labels, num_test, seed)
        train_ids, val_ids = _divide(rest, labels, num_val, seed)
    except ValueError as error:
        raise _too_few(labels) from error
    return complete(labels, train_ids, val_ids, test_ids)


def grouped(posts: Sequence[Post], group_of: Mapping[str, str], val: float, test: float, seed: int) -> dict[str, str]:
    """Return the part of each labelled post, with all posts of a group in one part.

    scikit-learn's StratifiedGroupKFold assigns posts to folds, and a part takes several folds: at 0.2 and 0.2 there are
    five folds, one for test, one for val and three for train. If a group is too large for that, or a label has too few
    groups, a part may be one fold of three. A group that is larger than a part goes to train. Sizes and shares of
    labels come as near to the wanted ones as the groups allow.

    Args:
        posts: all posts. Those without a label are left out.
        group_of: the group of each labelled post, by id.
        val: the share of val, in (0, 1).
        test: the share of test, in (0, 1).
        seed: the seed of the split.

    Raises:
        UserError: a label has too few posts, or too few groups, for all parts.
    """
    labels = {post.id: post.label for post in posts if post.label}
    max_folds = min(_rarest(labels), len({group_of[key] for key in labels}))
    divisions: list[list[list[str]]] = []
    for num_folds, num_val, num_test in (_folds(labels, _share(val), _share(test)), (len(PARTS), 1, 1)):
        if num_val + num_test < num_folds <= max_folds:
            division, is_even = _fold_parts(labels, group_of, num_folds, num_val, num_test, seed)
            if _has_all(labels, division):
                divisions.append(division)
                if is_even:
                    break
    if not divisions:
        raise _too_few(labels) if _rarest(labels) < len(PARTS) else _too_few_groups(labels, group_of)
    wanted = (val * len(labels), test * len(labels))
    nearest = min(divisions, key=lambda parts: sum(abs(len(parts[1 + k]) - wanted[k]) for k in range(2)))
    return complete(labels, *nearest)


def given(posts: Sequence[Post]) -> dict[str, str]:
    """Return the part that came with each labelled post. Posts without one are in no part.

    Raises:
        UserError: a part lacks a label.
    """
    labels = {post.id: post.label for post in posts if post.label}
    ids = {part: [post.id for post in posts if post.part == part and post.label] for part in PARTS}
    for part, keys in ids.items():
        missing = sorted(set(labels.values()) - {labels[key] for key in keys})
        if missing:
            what = f"{missing[0]} post" if keys else "labelled post"
            raise UserError(f"the split that came with the posts has no {what} in {part}: add some, or set split.kind")
    return complete(labels, *ids.values())


def unimodal_posts(posts: Sequence[Post], group_of: Mapping[str, str], label_names: Sequence[str]) -> list[Post]:
    """Return the posts that teach a half alone: their two labels differ, and the protocol gives them none.

    Posts with a near-duplicate among those of the protocol are left out, so that any split of these is free of leaks.

    Args:
        posts: all posts.
        group_of: the group of near-duplicates of each of them, by id.
        label_names: the labels that a half may have.
    """
    labelled = {group_of[post.id] for post in posts if post.label}
    halves = {post.id: {post.text_label, post.image_label} for post in posts if group_of[post.id] not in labelled}
    return [post for post in posts if post.id in halves and halves[post.id] <= set(label_names)]


def _fold_parts(
    labels: Mapping[str, str], group_of: Mapping[str, str], num_folds: int, num_val: int, num_test: int, seed: int
) -> tuple[list[list[str]], bool]:
    """Return the ids of train, val and test, and whether the folds have about the same size."""
    folds = _assign_folds(sorted(labels, key=numeric_id_key), labels, group_of, num_folds, seed)
    # A fold with too large a group comes last, which is in train.
    folds.sort(key=lambda fold: len(fold) * num_folds > _MAX_RATIO * len(labels))
    chosen = (folds[num_test + num_val :], folds[num_test:][:num_val], folds[:num_test])
    is_even = len(folds[-1]) * num_folds <= _MAX_RATIO * len(labels)
    return [[key for fold in part for key in fold] for part in chosen], is_even


def complete(
    labels: Mapping[str, str], train: Iterable[str], val: Iterable[str], test: Iterable[str]
) -> dict[str, str]:
    """Return the part of each post, in the order of `labels`, without posts in no part.

    Raises:
        UserError: a part lacks a label.
    """
    ids = dict(zip(PARTS, map(set, (train, val, test)), strict=True))
    if not _has_all(labels, ids.values()):
        raise _too_few(labels)
    part_of = {key: part for part, keys in ids.items() for key in keys}
    return {key: part_of[key] for key in labels if key in part_of}


def _has_all(labels: Mapping[str, str], parts: Iterable[Iterable[str]]) -> bool:
    """Return whether every part has every label."""
    wanted = set(labels.values())
    return all({labels[key] for key in part} == wanted for part in parts)


def _divide(ids: list[str], labels: dict[str, str], num_second: int, seed: int) -> tuple[list[str], list[str]]:
    from sklearn.model_selection import train_test_split

    strata = [labels[key] for key in ids]
    first, second = train_test_split(ids, test_size=num_second, stratify=strata, random_state=seed)
    return first, second


def _folds(labels: Mapping[str, str], val: Fraction, test: Fraction) -> tuple[int, int, int]:
    """Return the number of folds, which the rarest label limits, and how many of them are val and test."""
    denominators = (share.limit_denominator(_MAX_FOLDS).denominator for share in (val, test))
    num_folds = min(math.lcm(*denominators), _MAX_FOLDS, _rarest(labels))
    return num_folds, max(1, round(val * num_folds)), max(1, round(test * num_folds))


def _rarest(labels: Mapping[str, str]) -> int:
    return min(Counter(labels.values()).values(), default=0)


def _assign_folds(
    ids: list[str], labels: Mapping[str, str], group_of: Mapping[str, str], num_folds: int, seed: int
) -> list[list[str]]:
    """Assign ids to folds of about the same size and shares of labels, with each group in one fold."""
    from sklearn.model_selection import StratifiedGroupKFold

    number_of: dict[str, int] = {}
    groups = [number_of.setdefault(group_of[key], len(number_of)) for key in ids]
    folds = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    places_of_folds = folds.split(ids, [labels[key] for key in ids], groups)
    return [[ids[place] for place in places] for _, places in places_of_folds]


def _share(value: float) -> Fraction:
    # In floats 0.07 * 100 is 7.000000000000001, which would be rounded up to 8.
    return Fraction(str(value))


def _too_few(labels: Mapping[str, str]) -> UserError:
    counts = Counter(labels.values())
    shown = ", ".join(f"{counts[label]} {label}" for label in sorted(counts))
    return UserError(f"too few posts to have every label in {', '.join(PARTS)}: {shown}; add posts or change split")


def _too_few_groups(labels: Mapping[str, str], group_of: Mapping[str, str]) -> UserError:
    names = sorted(set(labels.values()))
    groups = {name: {group_of[key] for key, label in labels.items() if label == name} for name in names}
    in_words = ", ".join(f"{len(keys)} with {name}" for name, keys in groups.items())
    return UserError(
        f"too few groups of near-duplicates to have every label in {', '.join(PARTS)} with each group in one part: "
        f"{len(set().union(*groups.values()))} in all, {in_words}; add posts with other images and captions, "
        "or set split.kind: stratified, which may part near-duplicates"
    )
