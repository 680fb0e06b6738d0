import os
from dataclasses import replace
from pathlib import Path

import pytest

from src.core.errors import UsageError, UserError
from src.core.files import digest_of, read_json, require_writable, write_json, write_table, write_text
from src.core.records import (
    Fingerprint,
    Post,
    Prediction,
    Scores,
    content_digest,
    data_digest,
    leak_free,
    numeric_id_key,
    read_fingerprints,
    read_groups,
    read_posts,
    read_predictions,
    read_split,
    split_digest,
    write_fingerprints,
    write_groups,
    write_posts,
    write_predictions,
    write_split,
)

POST = Post("1", "data/1.jpg", 'say "hi",\nthen é \U0001f600', "positive", "neutral", "", "d1")


def test_tables_survive_their_files(tmp_path: Path) -> None:
    posts = [POST, replace(POST, id="2", caption="very long " * 20_000)]
    write_posts(tmp_path / "posts.csv", posts)
    assert read_posts(tmp_path / "posts.csv") == posts
    write_split(tmp_path / "split.csv", {"1": "train", "2": "test"})
    assert read_split(tmp_path / "split.csv") == {"1": "train", "2": "test"}
    predictions = [Prediction("1", "neutral", "positive", {"calm": 0.1, "angry": 0.2, "positive": 0.7})]
    write_predictions(tmp_path / "predictions.csv", predictions)
    assert read_predictions(tmp_path / "predictions.csv") == predictions


def test_numbers_have_six_decimals(tmp_path: Path) -> None:
    content = {"loss": 0.12345678901, "scores": [1 / 3, -1e-12], "rows": ({"posts": 7, "high": 1e-7},), "none": None}
    write_json(tmp_path / "a.json", content)
    written = read_json(tmp_path / "a.json")
    assert written == {"loss": 0.123457, "scores": [0.333333, 0.0], "rows": [{"posts": 7, "high": 0.0}], "none": None}
    assert "-0.0" not in (tmp_path / "a.json").read_text()
    write_table(tmp_path / "a.csv", [{"loss": 2 / 3, "lr": 1.23456789e-7, "mcnemar_p": 4.7e-7, "change": -1e-9}])
    assert (tmp_path / "a.csv").read_text() == "loss,lr,mcnemar_p,change\n0.666667,1.23456789e-07,4.7e-07,0.0\n"


def test_settings_are_written_exactly(tmp_path: Path) -> None:
    content = {"params": {"lr": 1.23456789e-06, "dropout": 0.123456789, "rank": 8}}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content


def test_fingerprints_survive_their_file(tmp_path: Path) -> None:
    prints = [Fingerprint("1", "ab" * 32, "8000000000000000"), Fingerprint("2", "cd" * 32, "")]
    write_fingerprints(tmp_path / "fingerprints.csv", prints)
    assert read_fingerprints(tmp_path / "fingerprints.csv") == prints


def test_ids_sort_as_numbers() -> None:
    assert sorted(["b", "10", "9", "a", "010"], key=numeric_id_key) == ["9", "010", "10", "a", "b"]


def test_missing_file_is_user_error(tmp_path: Path) -> None:
    for read in (read_posts, read_split, read_json):
        with pytest.raises(UserError, match="run `dvc repro` first"):
            read(tmp_path / "nothing")


def test_failed_write_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_text(tmp_path / "folder", "a")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_require_writable_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    for writable in ("file", "new", "deep/er/new"):
        require_writable(tmp_path / writable)
    for unusable in ("folder", "pipe"):
        with pytest.raises(UsageError, match=unusable):
            require_writable(tmp_path / unusable)
    for unwritable in ("file/new", "n" * 255, "n" * 300):
        with pytest.raises(UserError, match="cannot be written"):
            require_writable(tmp_path / unwritable)
    assert sorted(tmp_path.rglob("*")) == before


def test_write_leaves_no_other_file(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "a.json", {"tone": "é"})
    write_json(tmp_path / "deep" / "a.json", {"tone": "ü"})
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.json"]
    assert read_json(tmp_path / "deep" / "a.json") == {"tone": "ü"}


def test_failed_write_keeps_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "\ud800")
    assert (tmp_path / "a.txt").read_text() == "old"


def test_content_digest_separates_halves() -> None:
    assert content_digest(b"ab", "c") != content_digest(b"a", "bc")
    assert content_digest(b"a", "b") == content_digest(b"a", "b")


def test_digest_ignores_only_order() -> None:
    assert digest_of([("a", "b"), ("c", "d")]) == digest_of([("c", "d"), ("a", "b")])
    assert digest_of([("a", "b")]) != digest_of([("ab", "")])


def test_split_digest_covers_unimodal_posts() -> None:
    part_of = {"1": "train", "2": "test"}
    assert split_digest(part_of, []) == digest_of(part_of.items())
    assert len({split_digest(part_of, ids) for ids in ([], ["3"], ["4"], ["3", "4"])}) == 4
    assert split_digest(part_of, ["3", "4"]) == split_digest(part_of, ["4", "3"])


def test_data_digest_covers_labels() -> None:
    equal = replace(POST, image_label="positive", label="positive")
    others = [POST, equal, replace(POST, image_label="negative"), replace(equal, label=""), replace(equal, digest="d2")]
    assert len({data_digest([post]) for post in others}) == len(others)


def test_summary_has_flat_names() -> None:
    row = {"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "support": 2.0}
    scores = Scores(0.5, 0.4, 0.3, {"negative": row}, [[1, 1], [0, 0]])
    assert scores.summary() == {"accuracy": 0.5, "macro_f1": 0.4, "weighted_f1": 0.3, "f1_negative": 2 / 3}


def test_leak_free_excludes_cross_part_groups() -> None:
    part_of = {"1": "train", "2": "test", "3": "test", "4": "val", "5": "test", "6": "test"}
    group_of = {"1": "1", "2": "1", "3": "3", "4": "4", "5": "4", "6": "3"}
    assert leak_free(part_of, group_of) == {"3", "6"}


def test_groups_survive_their_file(tmp_path: Path) -> None:
    write_groups(tmp_path / "groups.csv", {"2": "1", "1": "1"})
    assert read_groups(tmp_path / "groups.csv") == {"2": "1", "1": "1"}
