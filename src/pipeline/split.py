"""Work of stage `split`: divide the labelled posts, and report the split and its leaks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from src.core.config import Params
from src.core.data_outputs import LeakReport, PredefinedLists, SplitReport
from src.core.paths import FINGERPRINTS, GROUPS, LEAKS, POSTS, SPLIT, SPLIT_REPORT, UNIMODAL
from src.core.records import (
    PARTS,
    Post,
    data_digest,
    read_fingerprints,
    read_posts,
    split_digest,
    write_groups,
    write_split,
    write_unimodal,
)
from src.data.duplicates import find_duplicates
from src.data.leaks import leak_report
from src.data.published_splits import predefined_split
from src.data.split import given, grouped, stratified, unimodal_posts


def split_posts(params: Params) -> tuple[SplitReport, LeakReport]:
    """Divide the posts that `prepare` has read, write outputs/split/, and return both reports.

    Raises:
        UserError: `prepare` has not run, or the posts cannot be divided as `params` says.
    """
    posts = read_posts(POSTS)
    fingerprints = read_fingerprints(FINGERPRINTS)
    duplicates = find_duplicates([post for post in posts if post.label], fingerprints)
    unimodal = unimodal_posts(posts, find_duplicates(posts, fingerprints).groups, params.label_names)
    part_of = assign_parts(posts, duplicates.groups, params)
    report = describe_split(posts, part_of, params, [post.id for post in unimodal])
    leaks = leak_report(posts, fingerprints, part_of, duplicates)
    write_split(SPLIT, part_of)
    write_groups(GROUPS, duplicates.groups)
    write_unimodal(UNIMODAL, unimodal)
    report.write(SPLIT_REPORT)
    leaks.write(LEAKS)
    return report, leaks


def assign_parts(posts: Sequence[Post], group_of: Mapping[str, str], params: Params) -> dict[str, str]:
    """Return the part of each post by id; `group_of` maps an id to its group of near-duplicates."""
    settings = params.split
    kind = used_kind(posts, params)
    if kind == "given":
        return given(posts)
    if kind == "predefined":
        return predefined_split(posts, Path(settings.predefined.folder), settings.predefined.fold)
    if kind == "grouped":
        return grouped(posts, group_of, settings.val, settings.test, params.seed)
    return stratified(posts, settings.val, settings.test, params.seed)


def used_kind(posts: Sequence[Post], params: Params) -> str:
    """Return the kind of the split. Kind `given` without a split that came with the posts is `grouped`."""
    kind = params.split.kind
    return "grouped" if kind == "given" and not any(post.part for post in posts) else kind


def describe_split(
    posts: Sequence[Post], part_of: Mapping[str, str], params: Params, unimodal: Sequence[str]
) -> SplitReport:
    """Return the report of a split, with the number of posts of each label in each part.

    Args:
        posts: all posts.
        part_of: the part of each post that has one, by id.
        params: the settings of params.yaml.
        unimodal: the ids of the posts in no part that `unimodal_labels` trains on.
    """
    counts = Counter((part_of[post.id], post.label) for post in posts if post.id in part_of)
    lists = params.split.predefined
    return SplitReport(
        kind=used_kind(posts, params),
        protocol=params.prepare.protocol,
        seed=params.seed,
        predefined=PredefinedLists(lists.folder, lists.fold) if params.split.kind == "predefined" else None,
        data_digest=data_digest(posts),
        split_digest=split_digest(part_of, unimodal),
        parts={part: {label: counts[part, label] for label in params.label_names} for part in PARTS},
        in_no_part=sum(bool(post.label) and post.id not in part_of for post in posts),
        unimodal=len(unimodal),
    )
