"""Divisions that others have published: lists of the posts of each part.

A folder, or folders below it, hold either of

- three lists of ids, one a line: files named train.txt, val.txt (or dev.txt) and test.txt, or so behind an underscore,
  such as qmf_train.txt;
- the folds of the fair-comparison benchmark: `train_K.txt`, `val_K.txt` and `test_K.txt` for each fold K, which hold
  numbers, from 0, of lines of valid_pairlist.txt; each line of that begins with an id and a comma.

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
_MOST_NAMED = 3
_NAMES = {"train": ("train",), "val": ("val", "dev"), "test": ("test",)}

Lists = Mapping[str, Sequence[str]]


def predefined_split(posts: Sequence[Post], folder: Path, fold: int | None = None) -> dict[str, str]:
    """The part of each post that a list names; labelled posts that no list names are in no part.

    Args:
        posts: all that could be read.
        folder: where the lists are.
        fold: which one of several folds; None for lists of ids.

    Raises:
        UserError: a list is missing or malformed, or names a post that is not there, has no label or is in two parts.
    """
    lists = _read_fold(folder, fold) if fold is not None else _read_ids(folder)
    _require_one_part(lists)
    _require_labels(lists, posts)
    labels = {post.id: post.label for post in posts if post.label}
    return complete(labels, *(lists[part] for part in PARTS))


def folds_in(folder: Path) -> list[int]:
    """The numbers of the folds below a folder.

    Raises:
        UserError: there is none.
    """
    names = [re.fullmatch(r"train_(\d+)\.txt", path.name) for path in folder.rglob("train_*.txt")]
    if not (found := sorted(int(name[1]) for name in names if name)):
        raise UserError(f"{folder} holds no folds (train_1.txt and so on): say in split.predefined where they are")
    return found


def _read_ids(folder: Path) -> Lists:
    return {part: _lines(_find(folder, part, names)) for part, names in _NAMES.items()}


def _read_fold(folder: Path, fold: int) -> Lists:
    pair_list = _find(folder, "pairs of labels", (_PAIR_LIST,))
    ids = [line.partition(",")[0].strip() for line in _lines(pair_list)]
    paths = {part: _find(folder, f"{part} of fold {fold}", (f"{part}_{fold}",)) for part in PARTS}
    return {part: [_id_at(ids, line, path, pair_list) for line in _lines(path)] for part, path in paths.items()}


def _find(folder: Path, what: str, names: Sequence[str]) -> Path:
    """The one file below a folder that has one of the names, alone or behind an underscore."""
    endings = tuple(f"_{name}" for name in names)
    found = sorted(path for path in folder.rglob("*.txt") if f"_{path.stem}".endswith(endings))
    if not found:
        wanted = " or ".join(f"{name}.txt" for name in names)
        raise UserError(
            f"{folder} holds no list of {what} ({wanted}): say in split.predefined where, and which fold if any"
        )
    if len(found) > 1:
        raise UserError(f"{folder} holds several lists of {what}: {', '.join(map(str, found))}; name a folder with one")
    return found[0]


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
    """A published score is of all listed posts; on fewer of them it would be another figure under the same name."""
    listed = {key: None for part in PARTS for key in lists[part]}
    known = {post.id: post.label for post in posts}
    if missing := [key for key in listed if key not in known]:
        raise UserError(f"of {len(listed):,} posts in the published lists, `prepare` has not read {_some(missing)}")
    if unlabelled := [key for key in listed if not known[key]]:
        raise UserError(
            f"of {len(listed):,} posts in the published lists, {_some(unlabelled)} have no label: "
            "set prepare.protocol to the one that the lists were made for"
        )


def _some(keys: Collection[str]) -> str:
    """How many posts, and the first of them."""
    first = sorted(keys, key=numeric_id_key)[:_MOST_NAMED]
    return f"{len(keys):,} ({', '.join(first)}{', ...' if len(keys) > len(first) else ''})"
