from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from src.core.errors import UserError
from src.core.labels import TONES, label_of
from src.core.records import Post
from src.data import mvsa
from src.data.published_splits import folds_in, predefined_split

# Three posts a part, one of each tone. The last post has no label.
POSTS = [Post(str(key), "", "", TONES[key % 3], TONES[key % 3], TONES[key % 3], "") for key in range(12)]
UNLABELLED = Post("99", "", "", "positive", "negative", "", "")
LISTS = {"train": "012", "val": "345", "test": "678"}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes lists under some names; returns their folder."""

    def lists(ids: Mapping[str, Sequence[str]], name: str = "{}.txt") -> Path:
        for part, keys in ids.items():
            path = tmp_path / "lists" / name.format(part)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{key}\n" for key in keys))
        return tmp_path / "lists"

    return lists


@pytest.fixture
def folds(write: Write) -> Path:
    """Two folds of nine posts, named by the lines of a list that has them in an order of its own."""
    write({"valid_pairlist": [f"{key},1,0,2" for key in "876543210"]})
    write({"train": ["8", "7", "6"], "val": ["5", "4", "3"], "test": ["2", "1", "0"]}, "splits/{}_1.txt")
    write({"train": ["8", "7", "6"], "test": ["5", "4", "3"], "val": ["2", "1", "0"]}, "splits/{}_2.txt")
    return write({})


def parts(part_of: Mapping[str, str]) -> dict[str, str]:
    return {part: "".join(key for key in part_of if part_of[key] == part) for part in ("train", "val", "test")}


def refused(folder: Path, fold: int | None = None, posts: Sequence[Post] = (*POSTS, UNLABELLED)) -> str:
    with pytest.raises(UserError) as caught:
        predefined_split(posts, folder, fold)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["{}.txt", "qmf_{}.txt", "deeper/{}.txt"])
@pytest.mark.parametrize("val", ["val", "dev"])
def test_id_lists_divide_posts(write: Write, name: str, val: str) -> None:
    folder = write({"train": LISTS["train"], val: LISTS["val"], "test": LISTS["test"]}, name)
    assert parts(predefined_split([*POSTS, UNLABELLED], folder)) == LISTS


def test_unlisted_posts_get_no_part(write: Write) -> None:
    part_of = predefined_split(POSTS, write({"train": "210", "val": "543", "test": "876"}))
    assert list(part_of) == list("012345678")
    assert predefined_split(POSTS[::-1], write({})) == part_of


def test_blanks_and_mark_do_not_matter(write: Write) -> None:
    folder = write({"train": ["\ufeff0 ", "", " 1", "2\r"], "val": "345", "test": "678"})
    assert parts(predefined_split(POSTS, folder)) == LISTS


def test_fold_refers_to_pair_list(folds: Path) -> None:
    assert folds_in(folds) == [1, 2]
    assert parts(predefined_split(POSTS, folds, 1)) == LISTS
    assert parts(predefined_split(POSTS, folds, 2)) == {"train": "012", "val": "678", "test": "345"}


def test_folds_are_in_numeric_order(write: Write) -> None:
    assert folds_in(write({"train_10": "", "train_9": "", "train_x": "", "retrain_3": ""})) == [9, 10]


def test_lists_and_folds_share_folder(folds: Path, write: Write) -> None:
    write({"train": "678", "dev": "345", "test": "012"}, "qmf_{}.txt")
    assert parts(predefined_split(POSTS, folds)) == {"train": "678", "val": "345", "test": "012"}
    assert parts(predefined_split(POSTS, folds, 1)) == LISTS


def test_missing_list_is_named(write: Write, folds: Path, tmp_path: Path) -> None:
    assert "holds no list of train (train.txt)" in refused(tmp_path / "nowhere")
    assert "holds no list of test of fold 3 (test_3.txt)" in refused(write({"train_3": "", "val_3": ""}), 3)
    (folds / "valid_pairlist.txt").unlink()
    assert "(valid_pairlist.txt)" in refused(folds, 1)
    write({"train": "012", "test": "678"})
    assert "holds no list of val (val.txt or dev.txt)" in refused(folds)


def test_two_lists_of_part_are_refused(write: Write) -> None:
    write(LISTS)
    folder = write({"test": "876"}, "other_{}.txt")
    message = refused(folder)
    assert "several lists of test" in message and "other_test.txt" in message


def test_unknown_ids_are_named(write: Write) -> None:
    folder = write({**LISTS, "train": ["0", "1", "2", "777", "778", "779", "780"]})
    assert "4 (777, 778, 779, ...) of 13 posts" in refused(folder)


def test_post_in_two_parts_is_refused(write: Write) -> None:
    assert "2 (1, 2) in both train and test" in refused(write({**LISTS, "test": "67812"}))
    assert "in both val and test" in refused(write({**LISTS, "test": "6783"}))


def test_unlabelled_listed_posts_are_counted(write: Write) -> None:
    message = refused(write({**LISTS, "test": ["6", "7", "8", "99"]}))
    assert "1 (99) of 10 posts" in message and "prepare.protocol" in message


def test_part_without_tone_is_refused(write: Write) -> None:
    assert "every label in train, val, test" in refused(write({**LISTS, "test": "67"}))


@pytest.mark.parametrize("line", ["9", "-1", "1.5", "abc", "0,1"])
def test_bad_line_number_is_refused(folds: Path, line: str) -> None:
    (folds / "splits" / "test_1.txt").write_text(f"2\n{line}\n")
    message = refused(folds, 1)
    assert f"found {line!r}, expected the number of a line of" in message and "0 to 8" in message


def test_folder_without_folds_is_refused(write: Write) -> None:
    with pytest.raises(UserError, match="holds no folds"):
        folds_in(write(LISTS))


@pytest.mark.real_data
def test_published_splits_of_real_posts(real_mvsa: Path) -> None:
    lists = real_mvsa / "splits"
    qmf = predefined_split(real_posts(real_mvsa, "agreement"), lists)
    assert Counter(qmf.values()) == {"train": 1555, "val": 518, "test": 519}
    posts = real_posts(real_mvsa, "standard")
    tested: Counter[str] = Counter()
    for fold in folds_in(lists):
        part_of = predefined_split(posts, lists, fold)
        assert len(part_of) == 4511
        tested.update(key for key, part in part_of.items() if part == "test")
    assert (len(tested), set(tested.values())) == (4511, {1}), "each post is tested once"


@pytest.mark.real_data
def test_folds_need_standard_protocol(real_mvsa: Path) -> None:
    lists = real_mvsa / "splits"
    message = refused(lists, 1, real_posts(real_mvsa, "agreement"))
    assert "1,919 (" in message and "prepare.protocol" in message
    codes = {
        post.id: {"neutral": "0", "positive": "1", "negative": "2"}[post.label]
        for post in real_posts(real_mvsa, "standard")
        if post.label
    }
    rows = [line.split(",") for line in (lists / "fair_valid_pairlist.txt").read_text().split()]
    assert {row[0]: row[1] for row in rows} == codes, "their labels are ours"


def real_posts(real_mvsa: Path, protocol: str) -> list[Post]:
    pairs = mvsa.survey(real_mvsa).pairs
    return [Post(key, "", "", *pair, label_of(protocol, *pair) or "", "") for key, pair in pairs.items()]
