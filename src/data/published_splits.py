"""Splits that others have published, as lists of the posts of each part.

A folder, or folders below it, holds one of

- three lists of ids, one a line, in train.txt, val.txt (or dev.txt) and test.txt. A prefix with an underscore is
  allowed, such as qmf_train.txt.
- the folds of the fair-comparison benchmark: `train_K.txt`, `val_K.txt` and `test_K.txt` for each fold K. They hold
  line numbers, from 0, of valid_pairlist.txt, whose lines begin with an id and a comma.

Source of the folds: G. S. Cheema et al., A Fair and Comprehensive Comparison of Multimodal Tweet Sentiment Analysis
Methods, MMPT 2021.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from src.core.errors import UserError
from src.core.records import PARTS, Post, numeric_id_key
from src.data import encodings
from src.data.split import complete

_PAIR_LIST = "valid_pairlist"
# The number of posts that an error names.
_MAX_NAMED = 3
_NAMES = {"train": ("train",), "val": ("val", "dev"), "test": ("test",)}

Lists = Mapping[str, Sequence[str]]


def predefined_split(posts: Sequence[Post], folder: Path, fold: int | None = None) -> dict[str, str]:
    """Return the part of each post that a list names. Labelled posts that no list names are in no part.

    Args:
        posts: all posts that could be read.
        folder: the folder of the lists.
        fold: the fold to read; None for lists of ids.

    Raises:
        UserError: a list is missing or malformed, or names a post that is missing, unlabelled or in two parts.
    """
    lists = _read_fold(folder, fold) if fold is not None else _read_ids(folder)
    _require_one_part(lists)
    _require_labels(lists, posts)
    labels = {post.id: post.label for post in posts if post.label}
    return complete(labels, *(lists[part] for part in PARTS))


def folds_in(folder: Path) -> list[int]:
    """Return the numbers of the folds below a folder.

    Raises:
        UserError: the folder holds no fold.
    """
    matches = [re.fullmatch(r"train_(\d+)\.txt", path.name) for path in folder.rglob("train_*.txt")]
    folds = sorted(int(match[1]) for match in matches if match)
    if not folds:
        raise UserError(f"{folder} holds no folds (train_1.txt and so on): name their folder in split.predefined")
    return folds


def _read_ids(folder: Path) -> Lists:
    return {part: _lines(_find(folder, part, names)) for part, names in _NAMES.items()}


def _read_fold(folder: Path, fold: int) -> Lists:
    pair_list = _find(folder, "pairs of labels", (_PAIR_LIST,))
    ids = [line.partition(",")[0].strip() for line in _lines(pair_list)]
    paths = {part: _find(folder, f"{part} of fold {fold}", (f"{part}_{fold}",)) for part in PARTS}
    return {part: [_id_at(ids, line, path, pair_list) for line in _lines(path)] for part, path in paths.items()}


def _find(folder: Path, content: str, names: Sequence[str]) -> Path:
    """Return the only file below a folder that has one of the names, alone or after an underscore."""
    endings = tuple(f"_{name}" for name in names)
    paths = sorted(path for path in folder.rglob("*.txt") if f"_{path.stem}".endswith(endings))
    if not paths:
        wanted = " or ".join(f"{name}.txt" for name in names)
        raise UserError(
            f"{folder} holds no list of {content} ({wanted}): name its folder in split.predefined, and the fold if any"
        )
    if len(paths) > 1:
        raise UserError(
            f"{folder} holds several lists of {content}: {', '.join(map(str, paths))}; name a folder with one"
        )
    return paths[0]


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in encodings.lines(path.read_bytes())[0] if line.strip()]


def _id_at(ids: Sequence[str], line: str, path: Path, pair_list: Path) -> str:
    if not (line.isdecimal() and int(line) < len(ids)):
        raise UserError(f"{path}: found {line!r}, expected the number of a line of {pair_list}, 0 to {len(ids) - 1:,}")
    return ids[int(line)]


def _require_one_part(lists: Lists) -> None:
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        if both := set(lists[first]) & set(lists[second]):
            raise UserError(f"the published lists have {_some(both)} in both {first} and {second}")


def _require_labels(lists: Lists, posts: Sequence[Post]) -> None:
    """Refuse lists with unreadable or unlabelled posts, because a score on fewer posts is not the published one."""
    listed = {key: None for part in PARTS for key in lists[part]}
    known = {post.id: post.label for post in posts}
    if missing := [key for key in listed if key not in known]:
        raise UserError(f"`prepare` has not read {_some(missing)} of {len(listed):,} posts in the published lists")
    if unlabelled := [key for key in listed if not known[key]]:
        raise UserError(
            f"{_some(unlabelled)} of {len(listed):,} posts in the published lists have no label: "
            "set prepare.protocol to the protocol of the lists"
        )


def _some(keys: Collection[str]) -> str:
    """Format the number of posts and the first of them."""
    first = sorted(keys, key=numeric_id_key)[:_MAX_NAMED]
    return f"{len(keys):,} ({', '.join(first)}{', ...' if len(keys) > len(first) else ''})"
